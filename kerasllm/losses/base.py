"""What the losses over tokens share: a loss is a mean of what is made of log-probabilities.

Shapes: B batch, T time, D width of hidden states, V vocab.
"""

from keras import ops

from kerasllm import backend
from kerasllm.losses.items import ItemLoss, Sums
from kerasllm.losses.likelihood import chunked_log_probabilities, log_probabilities, smoothed
from kerasllm.losses.targets import labels_of, targets
from kerasllm.vocabulary import check_ids, is_outside, within


class LogProbabilityLoss(ItemLoss):
    """A loss that is made of the log-probability of each label. Subclasses say how.

    A subclass sets `mean_over` and defines `item_losses`; that is all. `model.compile(loss=...)` then takes it, in our
    models and in others. Ours report the mean over all batches, take a batch in micro-batches or on several devices to
    the same update, and with `chunk_size` never hold the logits of all tokens.

    Args:
        label_smoothing, chunk_size, ignore_class: see `TokenCrossentropy`.

    Class attributes:
        mean_over: what the loss is a mean over: "tokens", by their weight; "sequences", the rows of a batch; or
            "pairs", rows that stand one below the other, the first with the second. A sequence or a pair counts as much
            as the weightiest of its tokens, and not at all without any.
        reports_perplexity: bool, whether the exponential of the loss is one.

    Call arguments:
        y_true: int (B, T) or (B, T, 1), labels; or a dict of them as "labels" and what else `item_losses` reads. (Keras
            takes a dict beside weights of tokens from a data set alone, not from arrays.)
        y_pred: float (B, T, V), logits.
        sample_weight: float (B, T), or (B,) for whole rows, or None; 0 where nothing is to be learned.

    Returns:
        float scalar.

    Raises:
        ValueError: if an argument is out of range. Outside of a graph also for a label that is neither in the
            vocabulary nor ignored. Our models say in every mode which one it is; with another model TensorFlow's own
            error holds this sentence, or the loss is not a number where XLA compiles.

    Example:

    >>> @keras.saving.register_keras_serializable()
    ... class SequenceCrossentropy(kerasllm.losses.LogProbabilityLoss):
    ...     mean_over = "sequences"
    ...
    ...     def item_losses(self, log_probs, weight, y_true):
    ...         return -keras.ops.sum(log_probs * weight, axis=1) / keras.ops.sum(weight, axis=1)
    >>> model.compile(loss=SequenceCrossentropy(chunk_size=256), micro_batches=4)
    """

    def __init__(self, label_smoothing=0.0, chunk_size=None, ignore_class=-100, name=None):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be at least 0 and less than 1, got {label_smoothing}.")
        if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
            raise ValueError(f"`chunk_size` must be a positive number of tokens or None, got {chunk_size!r}.")
        if ignore_class is not None and type(ignore_class) is not int:
            raise ValueError(f"`ignore_class` must be a label or None, got {ignore_class!r}.")
        super().__init__(name)
        self.label_smoothing = label_smoothing
        self.chunk_size = chunk_size
        self.ignore_class = ignore_class

    def item_losses(self, log_probs, weight, y_true):
        """The loss of each token, sequence or pair.

        Args:
            log_probs: float32 (B, T), of the labels.
            weight: float32 (B, T), how much a token counts within its sequence or pair, at most 1.
            y_true: what `fit` was given as y, its labels brought into the form (B, T).

        Returns:
            float32: (B, T) for a mean over tokens, (B,) over sequences, (B / 2,) over pairs. It must be finite also
            where nothing is to be learned.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `item_losses(log_probs, weight, y_true)`.")

    def item_measures(self, log_probs, weight, y_true):
        """What is reported beside the loss, by the arguments of `item_losses`: a tensor like its result for each of
        `measures`."""
        return ()

    def read_tokens(self, y_true, weight):
        """Weights (B, T), zero where a log-probability is not read, which is then not made of hidden states; None
        where all are."""
        return None

    def __call__(self, y_true, y_pred, sample_weight=None):
        mask = getattr(y_pred, "_keras_mask", None)  # such as that of an Embedding with mask_zero
        logits = ops.convert_to_tensor(y_pred, "float32")
        y_true, weight = self.targets(y_true, sample_weight, logits)
        labels, V = labels_of(y_true), logits.shape[-1]
        weight = weight if mask is None else weight * ops.cast(mask, "float32")
        check_ids(backend.known(labels), V, "label", self.ignore_class)
        are_bad = is_outside(labels, V)
        backend.refuse(are_bad, f"A label is outside of 0 to {V - 1}, and not ignore_class={self.ignore_class}.")
        log_probs = log_probabilities(within(labels, V), logits, self.label_smoothing > 0)
        sums = self._sums(ops.where(are_bad, float("nan"), log_probs), weight, y_true)
        return sums.total / ops.maximum(sums.count, 1e-9)

    def targets(self, y_true, sample_weight, outputs):
        """What is to be learned.

        Args:
            y_true, sample_weight: as in a call.
            outputs: (B, T, any), of the model; their shape alone is looked at.

        Returns:
            `y_true` with labels int (B, T), 0 where nothing is to be learned, whatever stood there; and weights
            float32 (B, T).
        """
        labels, weight = targets(labels_of(y_true), sample_weight, outputs, self.ignore_class)
        return {**y_true, "labels": labels} if isinstance(y_true, dict) else labels, weight

    def sums(self, y_true, y_pred, sample_weight=None):
        """`Sums` of a batch. Labels outside of the vocabulary are taken for those at its ends."""
        y_true, weight = self.targets(y_true, sample_weight, y_pred)
        labels = within(labels_of(y_true), y_pred.shape[-1])
        return self._sums(log_probabilities(labels, y_pred, self.label_smoothing > 0), weight, y_true)

    def chunked_sums(self, y_true, hidden, output_layer, sample_weight=None, training=True):
        """The same as `sums`, from what the output layer reads, `chunk_size` tokens at a time.

        Args:
            y_true, sample_weight: as in a call.
            hidden: float (B, T, D).
            output_layer: `OutputLayer`.
            training: bool. False needs no gradient.
        """
        y_true, weight = self.targets(y_true, sample_weight, hidden)
        labels = within(labels_of(y_true), output_layer.weights.shape[0])
        with_mean = self.label_smoothing > 0
        read = self.read_tokens(y_true, weight)
        log_probs = chunked_log_probabilities(labels, hidden, output_layer, self.chunk_size, with_mean, read)
        return self._sums(log_probs, weight, y_true)

    def _sums(self, log_probs, weight, y_true):
        """`Sums`, from log-probabilities (1 or 2, B, T)."""
        item_weight, weight = self._by_item(weight)

        def losses(log_probs):
            return self.item_losses(log_probs, weight, y_true)

        found = losses(log_probs[0])
        measures = self.item_measures(ops.stop_gradient(log_probs[0]), weight, y_true)
        reported = self._summed(found, measures, item_weight)
        if self.label_smoothing:
            total = ops.sum(losses(smoothed(log_probs, self.label_smoothing)) * item_weight)
        else:
            total = reported[0] if self.measures else reported
        return Sums(total, reported, ops.sum(item_weight))

    def get_config(self):
        names = ("name", "label_smoothing", "chunk_size", "ignore_class")
        return {name: getattr(self, name) for name in names}
