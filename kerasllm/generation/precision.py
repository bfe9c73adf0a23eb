"""What decoding computes in."""

import keras

_DTYPES = ("dtype_policy", "reverse_dtype")  # The latter is that of a tied output layer.


def in_float32(model, function):
    """A function that calls a model, in which layers that compute in 16 bits compute in 32, with the weights they have.

    XLA multiplies in 32 bits on CPUs. Narrower tensors it widens: weights once in a call, but the whole cache
    once for each token (measured: 2.2 ms a token in bfloat16, 1.6 so).
    """

    def traced(*args, **options):
        layers = [layer for layer in model._flatten_layers() if _computes_in_16_bits(layer.dtype_policy)]
        before = [(layer, name, getattr(layer, name)) for layer in layers for name in _DTYPES if hasattr(layer, name)]
        try:
            for layer, name, value in before:
                setattr(layer, name, _Widened(value.name) if name == "dtype_policy" else "float32")
            return function(*args, **options)
        finally:
            for layer, name, value in before:
                setattr(layer, name, value)

    return traced


class _Widened(keras.DTypePolicy):
    """A policy of that name, but for what it computes in."""

    compute_dtype = "float32"


def _computes_in_16_bits(policy):
    return policy.compute_dtype in ("bfloat16", "float16") and not policy.quantization_mode
