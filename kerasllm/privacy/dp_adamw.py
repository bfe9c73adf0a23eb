"""AdamW over gradients of single examples, each clipped, with noise over their sum."""

import contextlib
import secrets

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.optimizers import AdamW

_NOT_BESIDE = ("global_clipnorm", "clipnorm", "clipvalue", "gradient_accumulation_steps", "loss_scale_factor")


@keras.saving.register_keras_serializable("kerasllm")
class DPAdamW(AdamW):
    """AdamW whose weights are differentially private: they would be about as likely had any one example been absent.

    The gradient of each example, a row of a batch, is scaled down to `clip_norm` where it is longer. To their sum comes
    Gaussian noise with a standard deviation of `noise_multiplier` x `clip_norm`, and AdamW moves along the sum divided
    by `batch_size`. The loss of an example is the mean over its own tokens. Our models do this in `fit` where they are
    compiled with it, with adapters too, and with losses that are a mean over tokens or sequences, each by itself.

    What that promises depends on how batches are drawn: give data sets `poisson=True`, and see `epsilon`. It is a
    promise about the weights alone, and about single rows: not about the loss that is shown, the tokenizer, or a text
    that is in many rows.

    Args:
        learning_rate: float or schedule.
        noise_multiplier: float, at least 0. Without noise nothing is promised.
        clip_norm: float above 0.
        batch_size: int or None, examples that a batch has on average, which must not depend on the data; by default the
            rows of a batch, padding too. AdamW makes next to no difference between the two.
        seed: int or None. Noise is a function of it and the step. Who knows it can take the noise away again: leave it
            out to have it drawn, and keep it, as the state of the optimizer and checkpoints have it, to yourself.
        weight_decay, **kwargs: as in `AdamW`, but for other ways to clip or to add up gradients.

    Raises:
        ValueError: if a number is out of range, or for an option that would undo the promise.
        TypeError: in `fit`, where gradients of single examples are not made, as in models that are not ours.

    Example:
        >>> optimizer = kerasllm.privacy.DPAdamW(1e-3, noise_multiplier=1.0, clip_norm=1.0, batch_size=64)
        >>> model.compile(optimizer)

    Reference: Abadi et al. 2016, https://arxiv.org/abs/1607.00133; Li et al. 2022, https://arxiv.org/abs/2110.05679
    """

    _rows = None  # of the batch whose sums are being applied

    def __init__(
        self,
        learning_rate=1e-3,
        *,
        noise_multiplier,
        clip_norm,
        batch_size=None,
        seed=None,
        weight_decay=0.1,
        name="dp_adamw",
        **kwargs,
    ):
        if not 0 <= noise_multiplier < float("inf"):
            raise ValueError(f"`noise_multiplier` must be at least 0, got {noise_multiplier}.")
        if not 0 < clip_norm < float("inf"):
            raise ValueError(f"`clip_norm` must be above 0, got {clip_norm}.")
        if batch_size is not None and not batch_size >= 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        for option in _NOT_BESIDE:
            if kwargs.pop(option, None):
                raise ValueError(
                    f"DPAdamW clips the gradient of each example to clip_norm={clip_norm}, and {option} would change "
                    "the sums that noise is measured by: leave it out."
                )
        super().__init__(learning_rate, weight_decay, global_clipnorm=None, name=name, **kwargs)
        self.noise_multiplier = float(noise_multiplier)
        self.clip_norm = float(clip_norm)
        self.batch_size = batch_size
        self.seed = seed

    def build(self, var_list):
        if self.built:
            return
        super().build(var_list)
        bits = secrets.randbits(62) if self.seed is None else int(self.seed) % 2**62
        key = np.array([bits & (2**31 - 1), bits >> 31], "int32")
        self._key = self.add_variable(
            (2,), initializer=lambda shape, dtype=None: ops.convert_to_tensor(key, dtype), dtype="int32", name="key"
        )

    @contextlib.contextmanager
    def taking_clipped_sums(self, rows):
        """Within it, what is applied are sums of clipped gradients over a batch of so many rows."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def _backend_apply_gradients(self, grads, trainable_variables):
        if self._rows is None:
            raise TypeError(
                "DPAdamW needs the clipped gradients of single examples, which kerasllm's own models make in `fit` and "
                "`train_on_batch`, and got those of a whole batch: compile such a model with it."
            )
        super()._backend_apply_gradients(self._noisy_means(grads), trainable_variables)

    def _noisy_means(self, sums):
        size = ops.cast(self.batch_size or self._rows, "float32")
        deviation = self.noise_multiplier * self.clip_norm
        seed = [self._key[0], self._key[1], ops.cast(self.iterations, "int32")]

        def mean(index, total):
            noise = backend.stateless_normal(tuple(total.shape), [*seed, index])
            return ops.cast((ops.cast(total, "float32") + deviation * noise) / size, total.dtype)

        return [mean(index, total) for index, total in enumerate(sums)]

    def get_config(self):
        names = "noise_multiplier", "clip_norm", "batch_size", "seed"
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return {name: value for name, value in config.items() if name not in _NOT_BESIDE}
