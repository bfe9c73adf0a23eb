"""AdamW and Muon as language models use them, and the usual schedules."""

import re

import keras
from keras import ops

from kerasllm import backend

__all__ = ["AdamW", "Muon", "WarmupStableDecay", "orthogonalize", "warmup_cosine"]


def __dir__():  # what completion shows
    return __all__


@keras.saving.register_keras_serializable("kerasllm")
class AdamW(keras.optimizers.AdamW):
    """AdamW that decays matrices only: no norms, no biases, no embeddings (an untied output layer is a matrix).

    The same arithmetic as `keras.optimizers.AdamW`; on TensorFlow the update of a variable is one fused op. A step with
    gradients that are not finite changes nothing, and is not counted in `iterations`. (On several replicas of
    TensorFlow momentum and decay act all the same.)

    Args:
        learning_rate: float or schedule.
        weight_decay: float, decoupled decay per step in units of the learning rate.
        beta_1, beta_2, epsilon: as in Keras. beta_2 is 0.95 here, as in GPT-3 and Llama, for it follows the
            gradient's scale faster than 0.999.
        global_clipnorm: float or None. Gradients are scaled down to this norm, taken over all of them together; 1.0
            unless `clipnorm` or `clipvalue` is given.
        **kwargs: see `keras.optimizers.AdamW`.

    Example:
        >>> model.compile(kerasllm.optimizers.AdamW(kerasllm.optimizers.warmup_cosine(1e-3, 100, 2000)))

    Reference: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
    """

    # Of the gradients that are being applied: their norm, and by dtype what all updates have in common.
    _norm, _terms = None, None

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.1,
        beta_1=0.9,
        beta_2=0.95,
        epsilon=1e-8,
        global_clipnorm="default",
        name="adamw",
        **kwargs,
    ):
        if global_clipnorm == "default":
            global_clipnorm = None if kwargs.get("clipnorm") or kwargs.get("clipvalue") else 1.0
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
            self._exclude_from_decay(var_list)
        super().build(var_list)

    def _exclude_from_decay(self, var_list):
        self.exclude_from_weight_decay([v for v in var_list if len(v.shape) < 2 or v.name == "embeddings"])

    def apply(self, grads, trainable_variables=None):
        # A row that occurs twice in a sparse gradient counts as two for Keras' clipping, which then clips wrongly. And
        # replicas add up their gradients here already, as Keras would clip the share of each.
        grads = list(grads)
        given = [i for i, gradient in enumerate(grads) if gradient is not None]
        for i, total in zip(given, backend.sum_over_replicas([backend.densify(grads[i]) for i in given]), strict=True):
            grads[i] = total
        return super().apply(grads, trainable_variables)

    def _backend_apply_gradients(self, grads, trainable_variables):
        if self._moves_only() and backend.are_few(grads):
            is_finite = self._apply_joined(grads, trainable_variables)
        else:
            self._norm, self._terms = backend.global_norm(grads), {}
            is_finite = backend.update_if_finite(
                lambda grads: super(AdamW, self)._backend_apply_gradients(grads, trainable_variables),
                grads,
                self._norm,
                [*self._trainable_variables, *self.variables],  # averages are of weights without gradient too
            )
        self._norm = self._terms = None
        self._iterations.assign_add(ops.cast(is_finite, self._iterations.dtype) - 1)  # Keras adds 1 after this

    def _moves_only(self):
        """Whether a step is `update_step` of this class, and nothing else."""
        others = self.weight_decay, self.use_ema, self.gradient_accumulation_steps, self.clipnorm, self.clipvalue
        return not (any(others) or self.amsgrad) and type(self).update_step is AdamW.update_step

    def _apply_joined(self, grads, trainable_variables):
        """The step of few gradients as one vector: what is done to all alike is one op then, and no branch of the graph
        reads hundreds of variables. Returns whether their norm is finite; if it is not, nothing changes."""
        joined = backend.join(grads)
        norm = backend.global_norm([joined])
        is_finite = ops.isfinite(norm)
        if self.global_clipnorm:
            joined = joined * ops.where(norm > self.global_clipnorm, self.global_clipnorm / norm, 1.0)
        parts = backend.split_like(ops.where(is_finite, joined, 0.0), grads)
        dtype = trainable_variables[0].value.dtype
        self._terms = {dtype: self._make_terms(dtype, self.learning_rate, moves=is_finite)}
        for part, variable in zip(parts, trainable_variables, strict=True):
            self.update_step(part, variable.value, self.learning_rate)
        return is_finite

    def _clip_gradients(self, grads):
        if not self.global_clipnorm:
            return super()._clip_gradients(grads)
        # Of gradients that Keras has accumulated the norm is not known yet.
        norm = backend.global_norm(grads) if self.gradient_accumulation_steps else self._norm
        return backend.clip_by_norm(grads, self.global_clipnorm, norm)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Keras' own place to add up those of replicas, which is after clipping."""
        return grads_and_vars

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad or not backend.has_fused_adam(variable, gradient):
            return super().update_step(gradient, variable, learning_rate)
        if variable.dtype not in self._terms:
            self._terms[variable.dtype] = self._make_terms(variable.dtype, learning_rate)
        index = self._get_variable_index(variable)
        moments = self._momentums[index], self._velocities[index]
        backend.fused_adam(variable, *moments, gradient, self._terms[variable.dtype])

    def _make_terms(self, dtype, learning_rate, moves=None):
        numbers = learning_rate, self.iterations, self.beta_1, self.beta_2, self.epsilon
        return backend.adam_terms(dtype, *numbers, moves)

    def _apply_weight_decay(self, variables):
        if self.weight_decay:
            super()._apply_weight_decay(variables)


_TABLES = ("embeddings", "positions", "queries")  # whose rows are vectors, and no map from one space to another


@keras.saving.register_keras_serializable("kerasllm")
class Muon(AdamW):
    """Muon for the kernels of hidden layers, AdamW for the rest: embeddings, the output layer, norms and biases.

    A kernel moves along its momentum with all singular values made about equal, so that directions which gradients
    seldom take are learned too. A step is about as large as AdamW's, so both take one learning rate and one decay.

    Args:
        learning_rate: float or schedule.
        momentum: float, of Muon (Nesterov's).
        exclude_layers: list of str or None, regular expressions: where one is found in the path of a kernel, AdamW
            updates it. Name the output layer of a model of your own here; in our models it is known.
        **kwargs: see `AdamW`.

    Example:
        >>> model.compile(kerasllm.optimizers.Muon(kerasllm.optimizers.WarmupStableDecay(2e-3, 100, 2000)))

    Reference: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the size of the step: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982
    """

    def __init__(self, learning_rate=1e-3, *, momentum=0.95, exclude_layers=None, name="muon", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        if self.amsgrad:
            raise ValueError("Muon has no AMSGrad: leave `amsgrad` out.")
        self.momentum = momentum
        self.exclude_layers = list(exclude_layers or ())

    def is_orthogonalized(self, variable):
        """Whether Muon updates a variable, and not AdamW."""
        if len(variable.shape) != 2 or any(table in variable.name for table in _TABLES):
            return False
        return not any(re.search(pattern, variable.path) for pattern in self.exclude_layers)

    def build(self, var_list):
        if self.built:
            return
        self._exclude_from_decay(var_list)
        keras.optimizers.Optimizer.build(self, var_list)  # not Adam's: what Muon updates needs no velocity
        self._momentums = self.add_optimizer_variables(var_list, "momentum")
        self._velocities = [
            None if self.is_orthogonalized(variable) else self.add_variable_from_reference(variable, "velocity")
            for variable in var_list
        ]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if self._velocities[index] is not None:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[index]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(momentum, self.momentum * momentum + gradient)
        direction = orthogonalize(gradient + self.momentum * momentum)
        # AdamW's steps have a root mean square of about 0.2 in units of the learning rate: see the paper.
        scale = 0.2 * max(variable.shape) ** 0.5
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * scale * ops.cast(direction, variable.dtype))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "exclude_layers": self.exclude_layers}


def orthogonalize(matrix, steps=5):
    """A matrix with the same singular vectors and singular values near 1 (0.7 to 1.2), by Newton-Schulz iteration.

    In bfloat16, as in the original: the values need not be exact, and the products cost half as much.

    Args:
        matrix: float (M, N).
        steps: int, iterations.

    Returns:
        bfloat16 (M, N).
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if is_tall else matrix  # so that its square is the smaller one
    x = ops.cast(x / (ops.sqrt(ops.sum(ops.square(x))) + 1e-7), "bfloat16")
    for _ in range(steps):
        square = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(2.0315 * ops.matmul(square, square) - 4.775 * square, x)
    return ops.transpose(x) if is_tall else x


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, final_fraction: float = 0.1
) -> keras.optimizers.schedules.LearningRateSchedule:
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


@keras.saving.register_keras_serializable("kerasllm")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from 0 to `peak`, a level stretch, then a linear fall to `final_fraction` of it.

    A run can be made longer before its fall begins, and nothing is lost; a cosine must know its end from the start.

    Args:
        peak: float, the highest learning rate.
        warmup_steps: int, steps of the rise.
        total_steps: int, steps of the whole run, after which the rate stays at its end.
        decay_fraction: float in (0, 1], the share of all steps that the fall takes.
        final_fraction: float, the last rate as a share of `peak`.

    Raises:
        ValueError: if the rise and the fall do not fit into the run.

    Example:
        >>> schedule = kerasllm.optimizers.WarmupStableDecay(1e-3, warmup_steps=100, total_steps=2000)
        >>> round(float(schedule(1000)), 6), round(float(schedule(2000)), 6)
        (0.001, 0.0)

    Reference: Hu et al. 2024, https://arxiv.org/abs/2404.06395; Hägele et al. 2024, https://arxiv.org/abs/2405.18392
    """

    def __init__(self, peak, warmup_steps, total_steps, decay_fraction=0.5, final_fraction=0.0):
        super().__init__()
        decay_steps = round(decay_fraction * total_steps)
        if not 0 <= warmup_steps <= total_steps - decay_steps or decay_steps < 1:
            raise ValueError(
                f"A rise of {warmup_steps} steps and a fall of {decay_fraction} of them do not fit into {total_steps} "
                "steps. Lower `warmup_steps`, or choose `decay_fraction` between 0 and 1."
            )
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.decay_fraction = decay_fraction
        self.final_fraction = final_fraction

    def __call__(self, step):
        step = ops.cast(step, "float32")
        decay_steps = round(self.decay_fraction * self.total_steps)
        rise = step / max(1, self.warmup_steps) if self.warmup_steps else 1.0
        left = ops.clip((self.total_steps - step) / decay_steps, 0.0, 1.0)
        fall = self.final_fraction + (1 - self.final_fraction) * left
        return self.peak * ops.minimum(rise, fall)

    def get_config(self):
        names = ("peak", "warmup_steps", "total_steps", "decay_fraction", "final_fraction")
        return {name: getattr(self, name) for name in names}
