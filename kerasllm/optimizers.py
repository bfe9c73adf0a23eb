"""AdamW as language models use it, and the usual schedule."""

import keras

from kerasllm import backend


@keras.saving.register_keras_serializable("kerasllm")
class AdamW(keras.optimizers.AdamW):
    """AdamW that decays matrices only: no norms, no biases, no embeddings (an untied output layer is a matrix).

    The same arithmetic as `keras.optimizers.AdamW`; on TensorFlow the update of a variable is one fused op.

    Args:
        learning_rate: float or schedule.
        weight_decay: float, decoupled decay per step in units of the learning rate.
        beta_1, beta_2, epsilon: as in Keras. beta_2 is 0.95 here, as in GPT-3 and Llama, for it follows the
            gradient's scale faster than 0.999.
        global_clipnorm: float or None. Gradients are scaled down to this norm, taken over all of them together.
        **kwargs: see `keras.optimizers.AdamW`.

    Example:
        >>> model.compile(kerasllm.optimizers.AdamW(kerasllm.optimizers.warmup_cosine(1e-3, 100, 2000)))

    Reference: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.1,
        beta_1=0.9,
        beta_2=0.95,
        epsilon=1e-8,
        global_clipnorm=1.0,
        name="adamw",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )

    def build(self, var_list):
        if not self.built:
            self.exclude_from_weight_decay([v for v in var_list if len(v.shape) < 2 or v.name == "embeddings"])
        super().build(var_list)

    def apply(self, grads, trainable_variables=None):
        # A row that occurs twice in a sparse gradient counts as two for Keras' clipping, which then clips wrongly.
        return super().apply([backend.densify(gradient) for gradient in grads], trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad or not backend.has_fused_adam(variable, gradient):
            return super().update_step(gradient, variable, learning_rate)
        index = self._get_variable_index(variable)
        backend.fused_adam(
            variable,
            self._momentums[index],
            self._velocities[index],
            gradient,
            learning_rate,
            self.iterations,
            self.beta_1,
            self.beta_2,
            self.epsilon,
        )


def warmup_cosine(peak, warmup_steps, total_steps, final_fraction=0.1):
    """A linear rise from 0 to `peak`, then half a cosine down to `final_fraction` of it.

    Args:
        peak: float, the highest learning rate.
        warmup_steps: int, steps of the rise.
        total_steps: int, steps of the whole run, after which the rate stays at its end.
        final_fraction: float, the last rate as a share of `peak`.

    Returns:
        A `keras.optimizers.schedules.CosineDecay`.

    Reference: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"`warmup_steps` ({warmup_steps}) must be at least 0 and less than `total_steps` ({total_steps})."
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        alpha=final_fraction,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
