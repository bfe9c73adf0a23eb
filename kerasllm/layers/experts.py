"""A feed-forward half of a block in many parts, of which each token reads a few: a mixture of experts.

Shapes: B batch, T time, N tokens, D d_model, F dff, E experts, k experts of a token, U inner units, a gate included.
"""

import dataclasses

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.feed_forward import FeedForwardOptions, Widening, gate
from kerasllm.layers.option_names import explain_options
from kerasllm.layers.options import check_sizes
from kerasllm.layers.taps import tap


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertOptions(FeedForwardOptions):
    """How many feed-forward layers stand side by side, and which of them a token reads.

    Args:
        num_experts: int, feed-forward layers of width `dff`, of which a router chooses some for each token
            (https://arxiv.org/abs/1701.06538); None: one, for all tokens.
        experts_per_token: int, those that a token reads, whose outputs are added by the router's probabilities.
        normalize_experts: bool. The probabilities of those are made to sum to 1, as in Mixtral
            (https://arxiv.org/abs/2401.04088); False leaves them as the softmax over all makes them, as in OLMoE
            (https://arxiv.org/abs/2409.02060).
        router_loss: float, the weight of a loss in training, of each such layer, that keeps its router from choosing
            few of the experts: `experts_per_token` where it spreads tokens evenly, and more where it does not
            (https://arxiv.org/abs/2101.03961).
    """

    num_experts: int | None = None
    experts_per_token: int = 2
    normalize_experts: bool = True
    router_loss: float = 0.0

    def check(self, d_model=None, num_heads=None):
        super().check(d_model, num_heads)
        if self.num_experts is None:
            return
        check_sizes(num_experts=self.num_experts, experts_per_token=self.experts_per_token)
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"`experts_per_token` must be at most `num_experts` ({self.num_experts}), got {self.experts_per_token}."
            )
        if not self.router_loss >= 0:
            raise ValueError(f"`router_loss` must be at least 0, got {self.router_loss!r}.")

    def feed_forward_parameters(self, d_model, dff, use_bias, of_tokens=None):
        """The number of weights of a feed-forward layer, or of those that so many tokens read at most."""
        count = super().feed_forward_parameters(d_model, dff, use_bias)
        if self.num_experts is None:
            return count
        read = self.num_experts if of_tokens is None else min(of_tokens * self.experts_per_token, self.num_experts)
        return read * count + self.num_experts * d_model

    def feed_forward_kept(self, dff):
        return super().feed_forward_kept(dff) * self.feed_forwards_per_token

    @property
    def feed_forwards_per_token(self):
        """How many feed-forward layers compute something for a token."""
        return 1 if self.num_experts is None else self.experts_per_token


@keras.saving.register_keras_serializable("kerasllm")
@explain_options(ExpertOptions)
class MixtureOfExperts(Widening):
    """Feed-forward layers side by side, of which a router chooses some for each token.

    No token is dropped, whatever the router chooses: tokens are sorted by expert, and each expert computes its own.
    `layer.router` is a `Dense`; of all experts, the kernels of either layer are one weight, (E, D, U) and (E, F, D).

    Args:
        d_model: int, width of the output.
        dff: int, inner width of each expert.
        use_bias: bool, biases in the experts.
        kernel_initializer: initializer of the widening kernels and the router.
        output_initializer: initializer of the narrowing kernels; None means `kernel_initializer`.
        **options: `ExpertOptions`, of which `num_experts` is needed; and `name` and `dtype` of `keras.layers.Layer`.

    Call arguments:
        x: float (B, T, any width).

    Returns:
        float (B, T, D).

    Raises:
        ValueError: where `num_experts` is missing, or an option has no such value.

    Example:
        >>> layer = kerasllm.layers.MixtureOfExperts(64, 128, num_experts=8, activation="silu", gated=True)
        >>> layer(np.ones((2, 10, 64))).shape
        TensorShape([2, 10, 64])

    Reference: Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; Gale et al. 2022,
        https://arxiv.org/abs/2211.15841, for experts without limits to what each takes
    """

    _options = ExpertOptions

    def build(self, x_shape):
        check_sizes(num_experts=self.num_experts)
        self._input_width = D = x_shape[-1]
        self.router = Dense(
            self.num_experts,
            use_bias=False,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            name="router",
            dtype=self.dtype_policy,
        )
        self.router.build(x_shape)
        U = 2 * self.dff if self.gated else self.dff
        self.inner_kernels, self.inner_biases = self._of_experts("inner", D, U, self.kernel_initializer)
        outer_initializer = self.output_initializer or self.kernel_initializer
        self.outer_kernels, self.outer_biases = self._of_experts("outer", self.dff, self.d_model, outer_initializer)

    def _of_experts(self, name, width, units, initializer):
        """Kernels (E, width, units), each drawn as that of a layer of its own, and biases (E, units) or None."""

        def kernels(shape, dtype=None):
            return ops.stack([clone_initializer(initializer)(shape[1:], dtype) for _ in range(shape[0])])

        bias, E = None, self.num_experts
        kernel = self.add_weight((E, width, units), kernels, name=f"{name}_kernels")
        if self.use_bias:
            bias = self.add_weight((E, units), "zeros", name=f"{name}_biases")
        return kernel, bias

    def call(self, x, training=None):
        chosen, shares, loss = self.route(x)
        if training and self.router_loss:
            self.add_loss(self.router_loss * loss)
        weights = [self.inner_kernels, self.outer_kernels, self.inner_biases, self.outer_biases]
        weights = [ops.convert_to_tensor(weight) for weight in weights if weight is not None]
        x = backend.on_own_experts(self._experts, [x, chosen, shares], weights)
        return tap(x, self, "output")

    def route(self, x):
        """Which experts tokens read.

        Args:
            x: float (B, T, any width).

        Returns:
            The numbers of the experts of each token, int32 (B, T, k), the likeliest first; their shares in its output,
            float32 (B, T, k); and how unevenly tokens are spread, float32: k where all experts are as likely.
        """
        E, k = self.num_experts, self.experts_per_token
        probabilities = ops.softmax(ops.cast(self.router(x), "float32"))
        shares, chosen = ops.top_k(tap(probabilities, self, "router"), k)
        chosen = ops.cast(chosen, "int32")
        over_tokens = tuple(range(len(x.shape) - 1))
        read = ops.mean(ops.sum(ops.one_hot(chosen, E, dtype="float32"), axis=-2), axis=over_tokens)
        loss = E * ops.sum(read * ops.mean(probabilities, axis=over_tokens))
        if self.normalize_experts:
            shares = shares / ops.sum(shares, axis=-1, keepdims=True)
        return chosen, shares, loss

    def _experts(self, x, chosen, shares, inner, outer, *others):
        """What the experts of each token make of it, added up: all of them, or those that there are weights of here,
        from a first one on, by its number."""
        *biases, first = others
        k, E, shape = self.experts_per_token, inner.shape[0], ops.shape(x)
        flat = ops.reshape(chosen, (-1,))
        if first is not None:
            is_here = (flat >= first) & (flat < first + E)
            flat = ops.where(is_here, flat - first, E)  # Those of others come last.
        order = ops.argsort(flat)  # of the pairs of a token and an expert, those of the first expert before the others
        place = ops.argsort(order)  # where each pair went
        sizes = ops.sum(ops.cast(flat[:, None] == ops.arange(E, dtype="int32"), "int32"), axis=0)
        rows = _copies(ops.reshape(x, (-1, shape[-1])), order, place, k)
        biases = [ops.take(bias, ops.clip(ops.take(flat, order), 0, E - 1), axis=0) for bias in biases] or [0, 0]
        rows = backend.grouped_matmul(rows, inner, sizes) + biases[0]
        rows = gate(self.activate)(rows) if self.gated else self.activate(rows)
        rows = backend.grouped_matmul(rows, outer, sizes) + biases[1]
        rows = _permuted(rows, place, order)
        rows = ops.reshape(rows if first is None else ops.where(is_here[:, None], rows, 0), (-1, k, self.d_model))
        shares = ops.cast(ops.reshape(shares, (-1, k, 1)), rows.dtype)
        return ops.reshape(ops.sum(rows * shares, axis=1), (*shape[:-1], self.d_model))


def _copies(x, order, place, k):
    """Rows (N, D), each k times, in an order (N k,) of which `place` is the inverse. Its gradient gathers too, which is
    quicker than to scatter."""

    def copies(x, order, place):
        return ops.take(x, order // k, axis=0)

    def gradient(upstream, order, place):
        return ops.sum(ops.reshape(ops.take(upstream, place, axis=0), (-1, k, upstream.shape[-1])), axis=1)

    return backend.with_gradient(copies, gradient, x, order, place)


def _permuted(x, order, place):
    """Rows (N, D) in an order (N,) of which `place` is the inverse."""

    def permuted(x, order, place):
        return ops.take(x, order, axis=0)

    def gradient(upstream, order, place):
        return ops.take(upstream, place, axis=0)

    return backend.with_gradient(permuted, gradient, x, order, place)
