"""Low-rank adapters of dense layers: LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685), rsLoRA (Kalajdzievski
2023, https://arxiv.org/abs/2312.03732) and DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353).

`kerasllm.adapters` puts them into a model. Shapes: D inputs, U outputs, R the ranks of all slices together.
"""

import dataclasses
import itertools

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.dropout import Dropout

KINDS = ("lora", "rslora", "dora")
_SMALLEST = 1e-30  # square of a norm: a kernel may begin with zeros


@dataclasses.dataclass(frozen=True)
class Slice:
    """Neighbouring outputs of a kernel that have matrices of their own, such as the queries of `query_key_value`.

    Args:
        name: str, "" for a kernel of one slice.
        width: int, its outputs.
        rank: int, 0 where nothing is added to it.
        alpha: float.
    """

    name: str
    width: int
    rank: int = 0
    alpha: float = 0.0


@keras.saving.register_keras_serializable("kerasllm")
class LowRank(keras.layers.Layer):
    """The product of two narrow matrices, added to a kernel. It computes in float32, over a model in any precision.

    Args:
        slices: sequence of `Slice`s, or dicts of their fields, which are all outputs of the kernel together.
        kind: "lora", "rslora" or "dora".
        dropout: float, share of the inputs dropped in training.
        **options: `name` and `trainable`, as for any Keras layer.
    """

    def __init__(self, slices, kind="lora", dropout=0.0, **options):
        super().__init__(**{**options, "dtype": "float32", "autocast": False})
        self.slices = tuple(part if isinstance(part, Slice) else Slice(**part) for part in slices)
        self.kind = kind
        self.dropout = Dropout(dropout, dtype="float32", name="dropout") if dropout else None

    def build(self, inputs_shape, product_shape):
        D, self.downs, self.ups, self.magnitudes = inputs_shape[-1], [], [], []
        for part in self.slices:
            if part.rank:
                down, up = self._initializers(D)
                self.downs.append(self._matrix(part, "lora_a", (D, part.rank), down))
                self.ups.append(self._matrix(part, "lora_b", (part.rank, part.width), up))
                if self.kind == "dora":
                    self.magnitudes.append(self._matrix(part, "magnitude", (part.width,), "ones"))

    @staticmethod
    def _initializers(D):
        # Kaiming's uniform distribution with a = sqrt(5) has this limit.
        return keras.initializers.RandomUniform(-(D**-0.5), D**-0.5), "zeros"

    def _matrix(self, part, name, shape, initializer):
        name = f"{part.name}_{name}" if part.name else name
        return self.add_weight(shape, initializer, name=name)

    def call(self, inputs, product, kernel, training=None):
        x, product = ops.cast(inputs, "float32"), ops.cast(product, "float32")
        if self.dropout is not None:
            x = self.dropout(x, training=training)
        times = backend.dense if training else ops.matmul
        down, up = self.matrices()
        product = product + times(times(x, down), up)
        return product * self.lengths(kernel(), down, up) if self.kind == "dora" else product

    def measure(self, kernel):
        """Makes the magnitudes those of a kernel (D, U), with which nothing changes yet."""
        if self.kind == "dora":
            norms = self._split(ops.sqrt(_squares(kernel)))
            measured = [norm for norm, part in zip(norms, self.slices, strict=True) if part.rank]
            for magnitude, norm in zip(self.magnitudes, measured, strict=True):
                magnitude.assign(norm)

    def merged(self, kernel):
        """What a kernel (D, U) becomes by it, float32."""
        down, up = self.matrices()
        whole = ops.cast(kernel, "float32") + ops.matmul(down, up)
        return whole * self.lengths(kernel, down, up) if self.kind == "dora" else whole

    def matrices(self):
        """Those of all slices together, (D, R) and (R, U): two products do what would else be two for each slice."""
        before, U, wide, ups = 0, sum(part.width for part in self.slices), [], iter(self.ups)
        for part in self.slices:
            if part.rank:
                scale = part.alpha / (part.rank**0.5 if self.kind == "rslora" else part.rank)
                wide.append(ops.pad(scale * next(ups), ((0, 0), (before, U - before - part.width))))
            before += part.width
        return ops.concatenate([ops.convert_to_tensor(down) for down in self.downs], 1), ops.concatenate(wide, 0)

    def lengths(self, kernel, down, up):
        """What the outputs of the sum are multiplied by, (U,): magnitudes over norms, which no gradient passes.

        Norms of the sum come from products with the narrow matrices, so that the sum itself is never made.
        """
        kernel, down, up = (ops.stop_gradient(ops.cast(matrix, "float32")) for matrix in (kernel, down, up))
        crossed = 2 * backend.matmul(down, kernel, transpose_x=True)
        squares = _squares(kernel) + ops.sum(up * (crossed + ops.matmul(ops.matmul(ops.transpose(down), down), up)), 0)
        norms, magnitudes = ops.sqrt(ops.maximum(squares, _SMALLEST)), iter(self.magnitudes)
        of_slices = zip(self._split(norms), self.slices, strict=True)
        lengths = [ops.convert_to_tensor(next(magnitudes)) if part.rank else norm for norm, part in of_slices]
        return ops.concatenate(lengths) / norms

    def _split(self, vector):
        """The parts of (U,) by slices."""
        ends = list(itertools.accumulate(part.width for part in self.slices))
        return [vector[end - part.width : end] for part, end in zip(self.slices, ends, strict=True)]

    def get_config(self):
        rate = 0.0 if self.dropout is None else self.dropout.rate
        slices = [dataclasses.asdict(part) for part in self.slices]
        return {**super().get_config(), "slices": slices, "kind": self.kind, "dropout": rate}


def _squares(kernel):
    return ops.sum(ops.square(ops.cast(kernel, "float32")), axis=0)
