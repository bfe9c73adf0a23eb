"""Kernels of dense layers in 4 and 8 bits, in the place of those in float: see `Dense.replace_kernel`.

A product makes floats of some outputs' weights at a time, as it needs them, and its gradient, which is by the inputs
alone, makes them again. What is kept is ordered by outputs, as torch's linear layers keep their weights, so that it is
what bitsandbytes makes of the same weights: of layers whose outputs are side by side here, one after the other.

Shapes: D inputs, U outputs, N rows of inputs, G outputs at a time.
"""

import functools
import itertools
import math

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.quantization.blocks import (
    BLOCK,
    LEVELS,
    NESTED_BLOCK,
    dynamic_levels,
    quantize_4bit,
    quantize_8bit_blocks,
    quantize_rows,
)

_VALUES_AT_ONCE = 2**21  # 8 MB in float32
_LANES = 32  # neighbouring inputs that are multiplied side by side
_CHAINS, _LINKS = 6, 4  # the most: see `_chains`
_OF_4_BITS = 12  # vectors of bytes in a group, of which each takes as many registers as two of 8 bits
# Both numbers of a byte, (256, 2).
_PAIRS = {name: np.stack([np.repeat(levels, 16), np.tile(levels, 16)], axis=-1) for name, levels in LEVELS.items()}


class QuantizedKernel(keras.layers.Layer):
    """The base class of kernels (D, U) in few bits.

    Subclasses make weights in `build(shape)`, list them in `_kept`, fill them in `assign(kernel)`, and say by
    `_weights_of_outputs`, a pure function, what they stand for.

    Args:
        kind: str, what `quantize` calls it.
        **options: `name` and `dtype`, as for any Keras layer.
    """

    _row_product = None  # a function for one row of inputs, that is quicker by XLA

    def __init__(self, kind, **options):
        super().__init__(**{"name": kind, **options})
        self.kind = kind

    def build(self, shape):
        self.shape = tuple(shape)

    def matmul(self, inputs):
        """The product (..., U) of inputs (..., D) and the kernel, in the inputs' dtype."""
        x, (D, U) = backend.as_tensor(inputs), self.shape
        rows = ops.reshape(x, (-1, D))
        product = backend.with_gradient(self._product, self._gradient, rows, *self._tensors())
        return ops.reshape(product, (*ops.shape(x)[:-1], U))

    @property
    def kernel(self):
        """The weights (D, U) themselves, all at once, in the dtype of the layer's variables."""
        every = self._weights_of_outputs(np.int32(0), *self._tensors(), **self._settings(self.shape[1]))
        return ops.cast(ops.transpose(every), self.variable_dtype)

    def _product(self, x, *kept):
        U = self.shape[1]
        if x.shape[0] == 1 and self._row_product is not None and backend.in_xla():
            return ops.cast(backend.not_before(x, self._row_product, x, *kept, **self._settings(U)), x.dtype)
        count, take = self._groups(x, *kept)
        if count == 1:
            return backend.matmul(x, take(0), transpose_y=True)
        parts = backend.one_by_one(lambda i: backend.matmul(x, take(i), transpose_y=True), count, x.dtype)
        return ops.reshape(ops.transpose(parts, (1, 0, 2)), (-1, U))

    def _gradient(self, upstream, *kept):
        count, take = self._groups(upstream, *kept)
        if count == 1:
            return ops.matmul(upstream, take(0))
        N, G = ops.shape(upstream)[0], self.shape[1] // count
        _, total = backend.while_loop(
            lambda i, _: i < count,
            lambda i, total: (i + 1, total + ops.matmul(ops.slice(upstream, (0, i * G), (N, G)), take(i))),
            (0, ops.zeros((N, self.shape[0]), upstream.dtype)),
        )
        return total

    def _groups(self, x, *kept):
        """How many groups the outputs are taken in, and a function that gives the weights of one, (G, D).

        They wait for what they are multiplied with: else all layers' could be made at once, and before a loop.
        """
        G = self._outputs_at_once()

        def take(index):
            # The place is no tensor that waits: XLA would want to know it, and all else that does, when it compiles.
            weights_of = functools.partial(self._weights_of_outputs, ops.convert_to_tensor(index * G, "int32"))
            weights = backend.not_before(x, weights_of, *kept, **self._settings(G))
            return ops.cast(weights, x.dtype)

        return self.shape[1] // G, take

    def _outputs_at_once(self):
        """The most that divide the outputs evenly, begin with a block and are not too many; all if there are none."""
        D, U = self.shape
        step = math.lcm(D, BLOCK) // D
        fit = [G for G in range(step, U, step) if U % G == 0 and D * G <= _VALUES_AT_ONCE]
        return U if D * U <= _VALUES_AT_ONCE else max(fit, default=U)

    def _settings(self, count):
        return {"count": count, "width": self.shape[0], "kind": self.kind}

    def _tensors(self):
        return [backend.as_tensor(weight) for weight in self._kept]

    def _keep(self, name, shape, dtype):
        return self.add_weight(shape, "zeros", dtype, trainable=False, autocast=False, name=name)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def _outputs_first(kernel):
    """A kernel (D, U) as a float32 array (U, D)."""
    return np.asarray(ops.convert_to_numpy(ops.cast(kernel, "float32"))).T


@keras.saving.register_keras_serializable("kerasllm")
class Int8Kernel(QuantizedKernel):
    """Whole numbers from -127 to 127, with a scale for each output (Dettmers et al. 2022,
    https://arxiv.org/abs/2208.07339, without its columns in float)."""

    def build(self, shape):
        super().build(shape)
        D, U = shape
        self.codes, self.absmax = self._keep("codes", (U, D), "int8"), self._keep("absmax", (U,), "float32")
        self._kept = [self.codes, self.absmax]

    def assign(self, kernel):
        codes, absmax = quantize_rows(_outputs_first(kernel))
        self.codes.assign(codes)
        self.absmax.assign(absmax)

    @property
    def _row_product(self):
        return _row_times_8_bits if self.shape[0] % _LANES == 0 and backend.on_cpu() else None

    def outputs_at(self, indices):
        """What is multiplied for some outputs, int (...): float32 (..., D). Of a table, the rows of tokens."""
        codes, absmax = (ops.take(weight, indices, axis=0) for weight in self._tensors())
        return ops.cast(codes, "float32") * (absmax / 127)[..., None]

    @staticmethod
    def _weights_of_outputs(start, codes, absmax, *, count, width, kind):
        codes, absmax = ops.slice(codes, (start, 0), (count, width)), ops.slice(absmax, (start,), (count,))
        return ops.cast(codes, "float32") * (absmax / 127)[:, None]


@keras.saving.register_keras_serializable("kerasllm")
class FourBitKernel(QuantizedKernel):
    """One of 16 levels for each weight, and for each block of 64 neighbouring inputs the largest absolute value, in
    float32 or in 8 bits: see `blocks.py`."""

    def build(self, shape):
        super().build(shape)
        size = math.prod(shape)
        blocks = -(-size // BLOCK)
        self.codes, self._kept = self._keep("codes", (-(-size // 2),), "uint8"), []
        if self._is_double:
            self.absmax = self._keep("absmax", (blocks,), "uint8")
            self.nested_absmax = self._keep("nested_absmax", (-(-blocks // NESTED_BLOCK),), "float32")
            self.nested_offset = self._keep("nested_offset", (1,), "float32")
            self._kept = [self.nested_absmax, self.nested_offset]
        else:
            self.absmax = self._keep("absmax", (blocks,), "float32")
        self._kept = [self.codes, self.absmax, *self._kept]

    def assign(self, kernel):
        codes, absmax = quantize_4bit(_outputs_first(kernel), LEVELS[_levels_of(self.kind)])
        self.codes.assign(codes)
        if self._is_double:
            offset = absmax.mean(dtype="float64").astype("float32")
            absmax, nested_absmax = quantize_8bit_blocks(absmax - offset)
            self.nested_absmax.assign(nested_absmax)
            self.nested_offset.assign([offset])
        self.absmax.assign(absmax)

    @property
    def _is_double(self):
        return self.kind.endswith("-dq")

    @property
    def _row_product(self):
        if self.shape[0] % BLOCK:
            return None
        return _row_times_even_levels if self.kind == "int4" and backend.on_cpu() else _row_times_4_bits

    @staticmethod
    def _weights_of_outputs(start, codes, absmax, *nested, count, width, kind):
        size = count * width
        blocks = -(-size // BLOCK)
        pairs = ops.slice(codes, (start * width // 2,), (-(-size // 2),))
        values = ops.reshape(ops.take(_PAIRS[_levels_of(kind)], ops.cast(pairs, "int32"), axis=0), (-1,))
        values = ops.pad(values, (0, blocks * BLOCK - values.shape[0])) if values.shape[0] % BLOCK else values
        scales = _block_scales(start * width // BLOCK, blocks, absmax, *nested)
        values = ops.reshape(ops.reshape(values, (-1, BLOCK)) * scales[:, None], (-1,))
        return ops.reshape(values[:size], (count, width))


def _levels_of(kind):
    return kind.removesuffix("-dq")


def _block_scales(start, count, absmax, *nested):
    """The largest absolute values of blocks from `start` on, float32 (count,)."""
    absmax = ops.slice(absmax, (start,), (count,))
    if not nested:
        return absmax
    nested_absmax, offset = nested
    of_blocks = ops.take(nested_absmax, (start + ops.arange(count, dtype="int32")) // NESTED_BLOCK)
    return ops.take(dynamic_levels(), ops.cast(absmax, "int32")) * of_blocks + offset


def _row_times_4_bits(x, codes, absmax, *nested, count, width, kind):
    """A row (1, D) times the kernel, (1, U): what decoding one text is made of.

    XLA makes it in one pass over what is kept: sums of blocks, and then of these by their scales.
    """
    codes, levels = ops.reshape(codes, (-1, BLOCK // 2)), LEVELS[_levels_of(kind)]
    scales = _block_scales(0, codes.shape[0], absmax, *nested)
    x = ops.reshape(ops.cast(x, "float32"), (-1, BLOCK // 2, 2))
    products = [
        ops.reshape(ops.take(levels, ops.cast(half, "int32")), (count, -1, BLOCK // 2)) * x[..., i]
        for i, half in enumerate((ops.right_shift(codes, 4), ops.bitwise_and(codes, 15)))
    ]
    return ops.sum(ops.sum(sum(products), axis=-1) * ops.reshape(scales, (count, -1)), axis=-1)[None]


def _row_times_8_bits(x, codes, absmax, *, count, width, kind):
    """As `_row_times_4_bits`, of whole numbers."""
    codes, x = _in_chains(codes, count, _LANES), _in_chains(_in_memory(ops.reshape(x, (2, -1))), 1, _LANES)
    products = [ops.cast(code, "float32") * part for code, part in zip(codes, x, strict=True)]
    return _sum_of_chains(products, ops.reshape(absmax / 127, (count, 1, 1, 1)))


def _row_times_even_levels(x, codes, absmax, *, count, width, kind):
    """As `_row_times_4_bits`, of the levels -8/7, -7/7 … 7/7, which are computed in less time than looked up."""
    lanes, in_chains = BLOCK // 2, functools.partial(_in_chains, most=_OF_4_BITS)
    codes, scales = in_chains(codes, count, lanes), in_chains(absmax, count, 1)
    halves = _in_memory(ops.transpose(ops.reshape(x, (-1, 2))))  # the high of bytes, and the low
    high, low = (in_chains(half, 1, lanes) for half in (halves[0], halves[1]))
    products = []
    for i, code in enumerate(codes):
        code = ops.cast(code, "int32")
        by_high = ops.cast(ops.right_shift(code, 4) - 8, "float32") * high[i]
        by_low = ops.cast(ops.bitwise_and(code, 15) - 8, "float32") * low[i]
        products.append((by_high + by_low) * scales[i])
    return _sum_of_chains(products, np.float32(1 / 7))


def _in_memory(x):
    """Inputs (2, N), float32, as they are. XLA would compute what they were made by anew for each output, but not a sum
    such as this: it makes that once."""
    return ops.sum(ops.cast(x, "float32") * np.eye(2, dtype="float32")[..., None], axis=1)


def _chains(count, most=_CHAINS * _LINKS):
    """A number of vectors as (groups, chains, links), whose product it is, with as few groups as can be of at most so
    many vectors.

    XLA writes out what is to be added in a group, all links of each chain; between groups is a loop. A sum waits for
    the one before it, as do the links of a chain: several chains keep a core busy.
    """
    sizes = itertools.product(range(1, _CHAINS + 1), range(1, _LINKS + 1))
    fit = [size for size in sizes if count % math.prod(size) == 0 and math.prod(size) <= most]
    chains, links = max(fit, key=math.prod)
    return count // (chains * links), chains, links


def _in_chains(values, count, lanes, **most):
    """What stands for inputs, of `count` outputs, as a list by chains of (count, groups, lanes, links).

    Links come last, though lanes are neighbours in memory: XLA loops in this order, and LLVM makes vectors of the
    innermost loop that it does not write out.
    """
    groups, chains, links = _chains(math.prod(values.shape) // (count * lanes), **most)
    values = ops.transpose(ops.reshape(values, (count, groups, chains, links, lanes)), (2, 0, 1, 4, 3))
    return [values[i] for i in range(chains)]


def _sum_of_chains(products, scales):
    """The sums (1, U) of a list by chains, (U, groups, lanes, links), times scales.

    They are multiplied before the last sum, as XLA would hand a sum of sums to a library, and store these for it.
    """
    while len(products) > 1:
        products = [sum(products[i : i + 2]) for i in range(0, len(products), 2)]
    return ops.sum(products[0] * scales, axis=(1, 2, 3))[None]
