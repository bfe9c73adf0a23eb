"""What `fit` and its like are given, brought into the form of a step, or refused before a compiled function gets it."""

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.layers import taps
from kerasllm.training.inputs import check_are_ids, check_are_labels, check_names, is_per_token
from kerasllm.training.screen import Screen
from kerasllm.vocabulary import check_ids


class ScreenedModel(keras.Model):
    """A `keras.Model` of token ids, which says in one sentence what it cannot take.

    Subclasses say the names of what they read, `needed_inputs` and `optional_inputs`, and of the embeddings that may
    stand in the place of ids, `_embeddings`; which ids these are, by `_ids_of(x)`: a dict from their names to the pairs
    (ids (B, T), size of their vocabulary); the name of those that have logits, `_main_ids`; whether these are of the
    next id, `predicts_next`; and the size of the vocabulary of their labels, `_vocab_size`.

    Args:
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    _labels_are_of_tokens = True  # and not of texts

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._screen = Screen()
        self._class_weight = None
        self._listeners = {}

    def __call__(self, inputs, *args, **kwargs):
        self._check_names(inputs)
        self._check_ids(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def _check_ids(self, inputs):
        for name, (ids, size) in self._ids_of(inputs).items():
            check_are_ids(ids, name)
            check_ids(backend.known(ids), size, name)

    def fit(self, x=None, y=None, *args, class_weight=None, sample_weight=None, validation_data=None, **kwargs):
        self._take_class_weight(class_weight)
        x, y, sample_weight = self._prepared(x, y, sample_weight)
        if validation_data is not None:
            validation_data = self._prepared(*keras.utils.unpack_x_y_sample_weight(validation_data))
            validation_data = keras.utils.pack_x_y_sample_weight(*validation_data)
        options = {"sample_weight": sample_weight, "validation_data": validation_data, **kwargs}
        try:
            with backend.as_raised():
                return super().fit(x, y, *args, **options)
        finally:
            self._take_class_weight(None)

    def evaluate(self, x=None, y=None, *args, sample_weight=None, **kwargs):
        x, y, sample_weight = self._prepared(x, y, sample_weight)
        with backend.as_raised():
            return super().evaluate(x, y, *args, sample_weight=sample_weight, **kwargs)

    def predict(self, x, *args, **kwargs):
        x, _, _ = self._prepared(x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        self._take_class_weight(class_weight)
        x, y, sample_weight = self._prepared(x, y, sample_weight)
        try:
            results = super().train_on_batch(x, y, sample_weight, **kwargs)
        finally:
            self._take_class_weight(None)
        self._screen.look()
        return results

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        results = super().test_on_batch(*self._prepared(x, y, sample_weight), **kwargs)
        self._screen.look()
        return results

    def _symbolic_build(self, iterator=None, data_batch=None):
        if backend.IS_TENSORFLOW and data_batch is not None:  # Of replicas, Keras hands in the means of ids: floats.
            x, *others = keras.utils.unpack_x_y_sample_weight(data_batch)
            if isinstance(x, dict):
                x = {name: backend.as_integers(value) if is_per_token(name) else value for name, value in x.items()}
            else:
                x = backend.as_integers(x)
            data_batch = (x, *others)
        super()._symbolic_build(iterator, data_batch)

    def make_train_function(self, force=False):
        self._look_before("train_function", super().make_train_function, force)

    def make_test_function(self, force=False):
        self._look_before("test_function", super().make_test_function, force)

    def _look_before(self, name, make, force):
        """Has Keras make a function that takes a step, and has it look first at what the step before it found."""
        before = getattr(self, name)
        make(self._listens_otherwise(name) or force)
        step = getattr(self, name)
        if step is before:
            return

        def look_and_step(*args):
            # On JAX what a step gets is gone once it has begun, so there is no other time to raise.
            found = self._screen.variable_in(self.metrics_variables, args[0][-1]) if backend.IS_JAX else None
            self._screen.look(found, at_once=False)
            return step(*args)

        setattr(self, name, self._restoring_state(look_and_step))

    def _listens_otherwise(self, name):
        """Whether other things listen to taps than when a function was made, which then has to be made anew."""
        before, self._listeners[name] = self._listeners.get(name, ()), taps.listeners()
        return before != taps.listeners()

    def _restoring_state(self, step):
        """The same step, after which a model has its weights also where it fails: on JAX Keras holds them while it
        runs, and they would be gone."""
        if not backend.IS_JAX:
            return step

        def restoring(state, *args):
            try:
                return step(state, *args)
            except Exception:
                groups = [self.trainable_variables, self.non_trainable_variables]
                groups += [self.optimizer.variables] if len(state) > 3 else []
                groups += [self.metrics_variables] if len(state) > 2 else []
                backend.put_back(groups, state)
                raise

        return restoring

    def get_metrics_result(self):
        """As Keras' own, which it calls when an epoch has ended, and within each step."""
        if not self._is_stepping:
            self._screen.look()
        return super().get_metrics_result()

    def make_predict_function(self, force=False):
        before = self.predict_function
        super().make_predict_function(self._listens_otherwise("predict_function") or force)
        predict = self.predict_function
        if predict is before:
            return predict

        def checked(batches):
            for batch in batches:
                x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                self._check_names(x)
                for name, (ids, size) in self._ids_of(x).items():
                    check_ids(backend.known(ids), size, name)
                yield batch

        def watched(*args):
            *state, batches = args
            return predict(*state, checked(batches) if backend.IS_JAX else list(checked(batches)))

        self.predict_function = self._restoring_state(watched)
        return self.predict_function

    def _take_class_weight(self, class_weight):
        if class_weight == self._class_weight:
            return
        for label, weight in (class_weight or {}).items():
            are_numeric = isinstance(label, int | np.integer) and isinstance(weight, int | float | np.number)
            if not are_numeric or not 0 <= label < self._vocab_size or not weight >= 0:
                raise ValueError(
                    f"`class_weight` has weights of at least 0 for labels from 0 to {self._vocab_size - 1}, got "
                    f"{weight!r} for {label!r}."
                )
        self._class_weight, self.train_function = class_weight, None

    def _weight_of(self, labels):
        """What `class_weight` says of labels: float32, as many."""
        weights = np.ones(self._vocab_size, "float32")
        weights[list(self._class_weight)] = list(self._class_weight.values())
        return ops.take(ops.convert_to_tensor(weights), ops.clip(labels, 0, self._vocab_size - 1))

    def _check_labels(self, labels, ids):
        check_are_labels(labels, ids)

    def _check_names(self, x):
        check_names(x, type(self).__name__, self.needed_inputs, self.optional_inputs, self._embeddings)

    def _prepared(self, x, y=None, sample_weight=None):
        """What `fit` and its like are given, as Keras takes it."""
        if isinstance(x, dict | np.ndarray) or (isinstance(x, tuple | list) and len(self.needed_inputs) > 1):
            self._check_names(x)
        given = keras.utils.unpack_x_y_sample_weight(x.element_spec)[0] if hasattr(x, "element_spec") else x
        for name, ids in given.items() if isinstance(given, dict) else {"token_ids": given}.items():
            is_text = getattr(ids, "dtype", None) == "string"  # of a data set, whose rows of ids may stand in lists
            if is_per_token(name) and (is_text or isinstance(ids, str | list | tuple | np.ndarray)):
                check_are_ids(ids, name)
        ids = x.get(self._main_ids) if isinstance(x, dict) else x
        if isinstance(y, np.ndarray) and isinstance(x, dict | np.ndarray) and ids is not None and self._labels_are_ids:
            self._check_labels(y, ids)
        if not backend.is_ragged(x):
            return x, y, sample_weight
        how = self._main_ids, self.predicts_next, self._labels_are_of_tokens
        if hasattr(x, "element_spec"):
            return backend.filled(x, *how), None, None
        return keras.utils.unpack_x_y_sample_weight(backend.filled((x, y, sample_weight), *how))
