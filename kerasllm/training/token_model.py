"""The training step: a loss that says what it is a mean over, logits in chunks, batches in micro-batches."""

import contextlib
import contextvars
import functools
import inspect
import warnings

import keras
from keras import ops, tree

from kerasllm import backend
from kerasllm.losses import TokenCrossentropy, token_weights
from kerasllm.losses.items import ItemLoss
from kerasllm.losses.targets import as_rows, labels_of
from kerasllm.metrics import TokenLoss
from kerasllm.optimizers import AdamW
from kerasllm.training.by_example import ExampleModel

# The model of the step that is under way.
_stepping_model = contextvars.ContextVar("stepping_model", default=None)


class TokenModel(ExampleModel):
    """A `keras.Model` from token ids to logits, which trains by means over tokens, sequences or pairs.

    Keras averages a batch's loss over B x T and the batches by rows. This averages over what the loss is a mean over,
    such as the tokens whose weight is not zero, in training and in what `fit` and `evaluate` report, so that padding
    and uneven batches change nothing: not between batches, not between micro-batches, and not between replicas.

    Subclasses have, besides what `ScreenedModel` asks for, a `call` that with `return_hidden_states=True` returns what
    the output layer reads, (B, T, D), in place of logits; `output_layer()`, a `losses.OutputLayer`; and
    `_has_plain_output_layer`, whether that says all about it.

    Args:
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    _label_name = "label"  # as `vocabulary.complaint` knows it

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._mean_loss = TokenLoss()
        self._micro_batches = 1

    def compile(self, optimizer="adam", loss=None, *, micro_batches=1, **kwargs):
        """As `keras.Model.compile`; without a loss, cross-entropy over the weighted tokens.

        With that loss, metrics count the tokens that it counts, also those given as `metrics`.

        Args:
            optimizer, loss: as in Keras. A loss of Keras' takes what our models give for the logits that it is, whether
                it says from_logits=True or not. One of your own gets logits; as a `losses.LogProbabilityLoss`, it need
                not make those of all tokens at once.
            micro_batches: int, parts that a training step takes its batch in, one after the other, to save memory. The
                update is that of the whole batch: gradients are added up, and clipped and applied once.
            **kwargs: as in Keras.

        Raises:
            ValueError: for metrics or a loss of your own where a part of the logits is all that ever exists.
        """
        loss = TokenCrossentropy() if loss is None else _from_logits(loss)
        if type(micro_batches) is not int or micro_batches < 1:
            raise ValueError(f"`micro_batches` must be a positive integer, got {micro_batches!r}.")
        chunk_size = getattr(loss, "chunk_size", None)
        is_nested = getattr(loss, "nested", False)
        if (chunk_size or micro_batches > 1 or is_nested) and (kwargs.get("metrics") or kwargs.get("weighted_metrics")):
            raise ValueError(
                f"Metrics need the logits of a whole batch, which with chunk_size={chunk_size} and micro_batches="
                f"{micro_batches} never exist. Leave the metrics out (the loss and the perplexity are reported "
                "anyway), or set chunk_size=None and micro_batches=1."
            )
        is_ours = isinstance(loss, ItemLoss)
        if micro_batches > 1 and not is_ours:
            raise ValueError(
                f"micro_batches={micro_batches} needs a loss that says what it is a mean over: kerasllm.losses."
                f"TokenCrossentropy, or one of your own made from kerasllm.losses.LogProbabilityLoss, got {loss!r}."
            )
        if is_ours and chunk_size and not self._can_return_hidden_states:
            warnings.warn(
                f"The `call` of {type(self).__name__} has no argument `return_hidden_states`, so the logits of all "
                f"tokens are made at once, in spite of chunk_size={chunk_size}.",
                stacklevel=2,
            )
        if is_ours and not kwargs.get("weighted_metrics"):
            kwargs["weighted_metrics"] = kwargs.pop("metrics", None)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self._micro_batches = micro_batches
        self._check_learns_by_example(kwargs.get("weighted_metrics"))
        self._mean_loss.report(is_ours and loss.reports_perplexity, loss.measures if is_ours else ())

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, "micro_batches": self._micro_batches} if config else config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, sample_weight, is_bad = self._targets(x, y, y_pred, sample_weight, training)
        if not self._has_our_loss:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            return loss * ops.where(is_bad, self._factor_of_bad, 1.0)
        y = self.loss.completed(self, x, y, sample_weight)
        sums = self.loss.sums(y, y_pred, sample_weight)
        self._mean_loss.update_state(sums.reported, sums.count, skip_non_finite=training)
        return self._share_of_mean(sums, _on_all_replicas(sums.count), is_bad)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._has_our_loss and self._compile_metrics is not None:
            y, sample_weight = self.loss.targets(*self._labels(x, y, sample_weight), y_pred)
            y = labels_of(y)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _targets(self, x, y, outputs, sample_weight, training):
        """Labels and weights as they are to be learned, and whether there is anything in a batch that cannot be.

        Args:
            x, y, sample_weight, training: as in Keras.
            outputs: (B, T, any), of which the shape alone is looked at.
        """
        y, sample_weight = self._labels(x, y, sample_weight)
        labels, V = None, self._vocab_size
        if self._has_our_loss:
            y, sample_weight = self.loss.targets(y, sample_weight, outputs)
            labels = labels_of(y), V
        elif self._labels_are_ids:
            y = as_rows(y, outputs)
            is_ignored = False if self.loss.ignore_class is None else y == self.loss.ignore_class
            labels = ops.where(is_ignored, 0, y), V
            y = ops.where(is_ignored, y, ops.clip(y, 0, V - 1))  # Keras' own loss stops at others, or is no number
        ignored = getattr(self.loss, "ignore_class", None)
        is_bad = self._screen.update_state(self._ids_of(x), labels, ignored, self._label_name)
        if self._class_weight and training:
            rows = as_rows(labels_of(y), outputs)
            sample_weight = token_weights(sample_weight, rows) * self._weight_of(rows)
            y = y if isinstance(y, dict) else rows
        return y, sample_weight, is_bad

    def _share_of_mean(self, sums, count, is_bad):
        """What tokens, sequences or pairs contribute to the mean over a count of them: losses of layers, such as
        regularisers, included.

        A loss that is not finite gets a gradient that is not finite either, so that the optimizer makes no update. One
        of what cannot be learned likewise, or where the optimizer would take it, a gradient of zero.
        """
        loss = sum((sums.count * loss for loss in self.losses), start=sums.total) / count
        return loss * ops.where(is_bad, self._factor_of_bad, ops.where(ops.isfinite(loss), 1.0, float("nan")))

    @property
    def _factor_of_bad(self):
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return float("nan") if isinstance(optimizer, AdamW) else 0.0

    def _symbolic_build(self, iterator=None, data_batch=None):
        if self._has_our_loss and self.loss.nested:  # whose batches the model is not called with
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            self._post_build()
        else:
            super()._symbolic_build(iterator, data_batch)
            if self._has_our_loss:  # which Keras does not build, and would call the model for anew at every batch
                self._compile_loss.built = True

    def make_train_function(self, force=False):
        if not self.optimizer.built:  # Variables that appear while TensorFlow traces a step make it trace once more.
            self.optimizer.build(self.trainable_variables)
        if self.train_function is None:
            backend.own(self.trainable_variables)
        backend.part([*self.variables, *self.optimizer.variables])
        return super().make_train_function(force)

    @backend.kept_by_graph  # Keras' optimizers have a gradient of their own too.
    def train_step(self, *args):
        """As Keras' own, where that can be: it needs the logits of a whole batch."""
        with self._stepping():
            if self._learns_by_example:
                return self._stateful(self._train_by_example, self.optimizer.variables)(*args)
            if self._micro_batches == 1 and not self._takes_own_step:
                return super().train_step(*args)
            return self._stateful(self._train_without_logits, self.optimizer.variables)(*args)

    def test_step(self, *args):
        with self._stepping():
            if not self._takes_own_step:
                return super().test_step(*args)
            return self._stateful(self._test_without_logits)(*args)

    def _train_without_logits(self, data):
        """A training step of a batch whose logits never exist all at once: of rows, in `micro_batches` of as many rows
        each, or of tokens, in the chunks of the loss."""
        batch, is_bad = self._unpacked(data, training=True)
        count = self.loss.count(batch[2])
        all_items = _on_all_replicas(count)
        scale = self.optimizer.scale_loss(ops.ones(()))

        def loss_and_reported(batch):
            sums = self._sums(*batch, training=True)
            return scale * self._share_of_mean(sums, all_items, is_bad), sums.reported

        differentiate = backend.value_and_gradients
        if self._micro_batches > 1:
            shape = (1 + len(self.loss.measures),) if self.loss.measures else ()
            differentiate = functools.partial(backend.accumulate_gradients, shape=shape)
            batch = tree.map_structure(self._in_micro_batches, batch)
        variables = self.trainable_variables
        (_, reported), gradients = differentiate(loss_and_reported, variables, self.non_trainable_variables, batch)
        self._mean_loss.update_state(reported, count, skip_non_finite=True)
        backend.apply_gradients(self.optimizer, gradients, variables)
        return self.get_metrics_result()

    def _test_without_logits(self, data):
        batch, _ = self._unpacked(data, training=False)
        sums = self._sums(*batch, training=False)
        self._mean_loss.update_state(sums.reported, sums.count)
        return self.get_metrics_result()

    def _unpacked(self, data, training):
        """Inputs, labels and weights as they are to be learned, and whether there is anything that cannot be."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if self.loss.nested:
            x, y, sample_weight = self.loss.unnested(x, y, sample_weight, self._summed_over_parts)
        else:
            self._check_ids(x)  # where they are known, before the batch is in parts, whose rows have other numbers
        ids, _ = self._ids_of(x).get(self._main_ids, (None, None))
        if ids is None:  # Embeddings stand in their place.
            like = next(x[name] for name, ids in self._embeddings.items() if name in x and self._main_ids in ids)
        else:
            like = ids[..., None]
        y, sample_weight, is_bad = self._targets(x, y, like, sample_weight, training)
        return (x, y, sample_weight), is_bad

    def _sums(self, x, y, sample_weight, training):
        """The loss of a batch as `losses.items.Sums`."""
        y = self.loss.completed(self, x, y, sample_weight)
        if not self._makes_logits_in_chunks:
            return self.loss.sums(y, self(x, training=training), sample_weight)
        hidden = self(x, training=training, return_hidden_states=True)
        return self.loss.chunked_sums(y, hidden, self.output_layer(), sample_weight, training)

    def _in_micro_batches(self, tensor):
        """(B, ...) -> (micro_batches, B / micro_batches, ...). Neighbours, which may be on one device, go to different
        ones, unless they belong together."""
        n, together = self._micro_batches, self.loss.rows_per_item
        tensor = backend.pad_rows(ops.convert_to_tensor(tensor), n * together)  # with rows of weight 0
        B, *shape = ops.shape(tensor)
        tensor = ops.swapaxes(ops.reshape(tensor, (B // n // together, n, together, *shape)), 0, 1)
        return ops.reshape(tensor, (n, B // n, *shape))

    def _stateful(self, step, optimizer_variables=None):
        """A step (data) -> logs that changes variables, as the backend wants it: on JAX from their values to their
        values."""
        if not backend.IS_JAX:
            return step
        groups = [self.trainable_variables, self.non_trainable_variables, optimizer_variables, self.metrics_variables]
        groups = [group for group in groups if group is not None]

        def stateless(state, data):
            flat = [[item for group in nested for item in group] for nested in (groups, state)]
            with keras.StatelessScope(state_mapping=zip(*flat, strict=True)) as scope:
                logs = step(data)
            return logs, tuple([scope.get_current_value(variable) for variable in group] for group in groups)

        return stateless

    @property
    def _is_stepping(self):
        return _stepping_model.get() is self

    @contextlib.contextmanager
    def _stepping(self):
        token = _stepping_model.set(self)
        try:
            yield
        finally:
            _stepping_model.reset(token)

    @property
    def _takes_own_step(self):
        """Whether Keras' own cannot be: it calls the model with what the data set gives, and makes all logits."""
        return self._makes_logits_in_chunks or bool(self._has_our_loss and self.loss.nested)

    @property
    def _makes_logits_in_chunks(self):
        """Whether the loss makes the logits itself, from hidden states."""
        has_chunks = self._has_our_loss and self.loss.chunk_size
        return bool(has_chunks and self._has_plain_output_layer and self._can_return_hidden_states)

    @property
    def _can_return_hidden_states(self):
        return "return_hidden_states" in inspect.signature(self.call).parameters  # not so in a `call` of a user's own

    @property
    def metrics(self):
        """Keras' metrics; the loss over tokens takes the place of its mean over rows when our loss is used."""
        return [metric for metric in super().metrics if metric is not self._mean_loss or self._has_our_loss]

    @property
    def _has_our_loss(self):
        return self.compiled and isinstance(self.loss, ItemLoss)

    @property
    def _labels_are_ids(self):
        return self._has_our_loss or (
            self.compiled and isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy)
        )


def _on_all_replicas(count):
    """What the loss of a batch is a mean over, on all replicas together."""
    return ops.maximum(backend.sum_over_replicas(count), 1e-9)


def _from_logits(loss):
    """A cross-entropy of Keras', by name or not, told that it gets logits; any other loss as it is."""
    for kind in (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy):
        name = kind().name
        is_named = loss in (name, kind.__name__) if isinstance(loss, str) else loss is getattr(keras.losses, name)
        config = kind().get_config() if is_named else loss.get_config() if type(loss) is kind else None
        if config and not config["from_logits"]:
            warnings.warn(
                f"The model gives logits, so {name} takes them for logits: say from_logits=True, or leave the loss "
                "out for kerasllm's own, which counts tokens.",
                stacklevel=3,
            )
            return kind.from_config({**config, "from_logits": True})
    return loss
