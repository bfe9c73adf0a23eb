"""How our models train: a loss that counts tokens, logits chunk by chunk, batches part by part."""

import contextlib
import contextvars
import warnings

import keras
from keras import ops, tree

from kerasllm import backend
from kerasllm.losses import TokenCrossentropy, as_rows, token_weights
from kerasllm.metrics import TokenLoss
from kerasllm.models.screened_model import ScreenedModel
from kerasllm.optimizers import AdamW

# The model of the step that is under way.
_stepping_model = contextvars.ContextVar("stepping_model", default=None)


class TokenModel(ScreenedModel):
    """A `keras.Model` from token ids to logits, whose loss is a mean over tokens.

    Keras averages a batch's loss over B x T and the batches by rows. This averages over the tokens whose weight is not
    zero, in training and in what `fit` and `evaluate` report, so that padding and uneven batches change nothing: not
    between batches, not between the parts of one batch, and not between replicas.

    Args:
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._token_loss = TokenLoss()
        self._micro_batches = 1

    def compile(self, optimizer="adam", loss=None, *, micro_batches=1, **kwargs):
        """As `keras.Model.compile`; without a loss, cross-entropy over the weighted tokens.

        With that loss, metrics count the tokens that it counts, also those given as `metrics`.

        Args:
            optimizer, loss: as in Keras. A loss of Keras' takes what our models give for the logits that it is, whether
                it says from_logits=True or not.
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
        if (chunk_size or micro_batches > 1) and (kwargs.get("metrics") or kwargs.get("weighted_metrics")):
            raise ValueError(
                f"Metrics need the logits of a whole batch, which with chunk_size={chunk_size} and micro_batches="
                f"{micro_batches} never exist. Leave the metrics out (the loss and the perplexity are reported "
                "anyway), or set chunk_size=None and micro_batches=1."
            )
        if micro_batches > 1 and not isinstance(loss, TokenCrossentropy):
            raise ValueError(
                f"micro_batches={micro_batches} needs a loss that is a mean over tokens, kerasllm.losses."
                f"TokenCrossentropy, got {loss!r}."
            )
        if isinstance(loss, TokenCrossentropy) and not kwargs.get("weighted_metrics"):
            kwargs["weighted_metrics"] = kwargs.pop("metrics", None)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self._micro_batches = micro_batches

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, "micro_batches": self._micro_batches} if config else config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, sample_weight, is_bad = self._targets(x, y, y_pred, sample_weight, training)
        if not self._counts_tokens:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            return loss * ops.where(is_bad, self._factor_of_bad, 1.0)
        total, nll, weight = self._sums(y, y_pred, sample_weight, training)
        self._token_loss.update_state(nll, weight, skip_non_finite=training)
        return self._share_of_mean(total, weight, _all_tokens(weight), is_bad)

    def _targets(self, x, y, y_pred, sample_weight, training):
        """Labels and weights as they are to be learned, and whether there is anything in a batch that cannot be."""
        y, sample_weight = self._labels(x, y, sample_weight)
        labels, V = None, self._vocab_size
        if self._counts_tokens:
            y, sample_weight = self.loss.targets(y, sample_weight, y_pred)
            labels = y, V
        elif self._labels_are_ids:
            y = as_rows(y, y_pred)
            is_ignored = False if self.loss.ignore_class is None else y == self.loss.ignore_class
            labels = ops.where(is_ignored, 0, y), V
            y = ops.where(is_ignored, y, ops.clip(y, 0, V - 1))  # Keras' own loss stops at others, or is no number
        is_bad = self._screen.update_state(self._ids_of(x), labels, getattr(self.loss, "ignore_class", None))
        if self._class_weight and training:
            y = as_rows(y, y_pred)
            sample_weight = token_weights(sample_weight, y) * self._weight_of(y)
        return y, sample_weight, is_bad

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._counts_tokens and self._compile_metrics is not None:
            y, sample_weight = self.loss.targets(*self._labels(x, y, sample_weight), y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _share_of_mean(self, total, weight, all_tokens, is_bad):
        """What tokens of some weight contribute to the loss: losses of layers, such as regularisers, included.

        A loss that is not finite gets a gradient that is not finite either, so that the optimizer makes no update. One
        of what cannot be learned likewise, or where the optimizer would take it, a gradient of zero.
        """
        loss = sum((weight * loss for loss in self.losses), start=total) / all_tokens
        return loss * ops.where(is_bad, self._factor_of_bad, ops.where(ops.isfinite(loss), 1.0, float("nan")))

    @property
    def _factor_of_bad(self):
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return float("nan") if isinstance(optimizer, AdamW) else 0.0

    def _sums(self, y, y_pred, sample_weight, training):
        if self._is_chunking:  # y_pred is what the output layer reads
            return self.loss.chunked_sums(y, y_pred, self._output_layer(), sample_weight, training)
        return self.loss.sums(y, y_pred, sample_weight)

    def make_train_function(self, force=False):
        if not self.optimizer.built:  # Variables that appear while TensorFlow traces a step make it trace once more.
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, *args):
        with self._stepping():
            if self._micro_batches == 1:
                return super().train_step(*args)
            if backend.IS_TENSORFLOW:
                return self._train_on_parts(*args)
            return self._stateless(self._train_on_parts, *args)

    def test_step(self, *args):
        with self._stepping():
            return super().test_step(*args)

    def _train_on_parts(self, data):
        """A training step that takes a batch in `micro_batches` parts of as many rows each."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        ids, _ = self._ids_of(x)[self._main_ids]
        y, sample_weight, is_bad = self._targets(x, y, ids[..., None], sample_weight, training=True)
        weight = ops.sum(sample_weight)
        all_tokens = _all_tokens(weight)
        scale = self.optimizer.scale_loss(ops.ones(()))

        def in_parts(tensor):
            """(B, ...) -> (parts, B / parts, ...); neighbours, which may be on one device, go to different parts."""
            tensor = backend.pad_rows(ops.convert_to_tensor(tensor), self._micro_batches)  # with rows of weight 0
            shape = ops.shape(tensor)
            tensor = ops.reshape(tensor, (shape[0] // self._micro_batches, self._micro_batches, *shape[1:]))
            return ops.swapaxes(tensor, 0, 1)

        def loss_and_nll(part):
            x, y, sample_weight = part
            total, nll, weight = self._sums(y, self(x, training=True), sample_weight, training=True)
            return scale * self._share_of_mean(total, weight, all_tokens, is_bad), nll

        variables = self.trainable_variables
        parts = tree.map_structure(in_parts, (x, y, sample_weight))
        (_, nll), gradients = backend.accumulate_gradients(loss_and_nll, variables, self.non_trainable_variables, parts)
        self._token_loss.update_state(nll, weight, skip_non_finite=True)
        backend.apply_gradients(self.optimizer, gradients, variables)
        return self.get_metrics_result()

    def _stateless(self, step, state, data):
        """Runs a step that changes variables as JAX wants it: from their values to their values."""
        groups = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        flat = [[item for group in nested for item in group] for nested in (groups, state)]
        with keras.StatelessScope(state_mapping=zip(*flat, strict=True)) as scope:
            logs = step(data)
        return logs, tuple([scope.get_current_value(variable) for variable in variables] for variables in groups)

    @property
    def _is_stepping(self):
        return _stepping_model.get() is self

    @property
    def _is_chunking(self):
        """Whether the loss makes the logits itself, chunk by chunk."""
        return self._is_stepping and self._counts_tokens and self.loss.chunk_size and self._has_plain_output_layer

    @contextlib.contextmanager
    def _stepping(self):
        token = _stepping_model.set(self)
        try:
            yield
        finally:
            _stepping_model.reset(token)

    @property
    def metrics(self):
        """Keras' metrics; the loss over tokens takes the place of its mean over rows when our loss is used."""
        return [metric for metric in super().metrics if metric is not self._token_loss or self._counts_tokens]

    @property
    def _counts_tokens(self):
        return self.compiled and isinstance(self.loss, TokenCrossentropy)

    @property
    def _labels_are_ids(self):
        return self._counts_tokens or (
            self.compiled and isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy)
        )


def _all_tokens(weight):
    """The weight of a batch's tokens, on all replicas together."""
    return ops.maximum(backend.sum_over_replicas(weight), 1e-9)


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
