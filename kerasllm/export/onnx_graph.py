"""The graph of ONNX that generates text step by step, with the cache of keys and values as inputs and outputs.

Shapes: B batch, T new tokens, P tokens of the cache, K key/value heads, h head_dim, V vocab.
"""

import contextlib

import tensorflow as tf

from kerasllm import backend
from kerasllm.export.stepwise import Stepwise
from kerasllm.layers.cache import KeyValueCache

_OPSET = 18
_INPUTS = ("input_ids", "attention_mask", "position_ids")


def write_graph(tf2onnx, model, path):
    """Writes the graph that `onnx_folder.onnx` describes.

    Args:
        tf2onnx: the module.
        model: see `Stepwise`.
        path: file to make.

    Returns:
        list of pairs (K, h), of each layer.
    """
    stepwise = Stepwise(model, "ONNX")
    specs = _specs(stepwise)
    with backend.plain_graph(), _as_traced(tf2onnx.optimizer._optimizers):
        step = tf.function(_step_of(stepwise), input_signature=specs, autograph=False)
        tf2onnx.convert.from_function(step, specs, opset=_OPSET, output_path=str(path))
    return stepwise.cache_shapes


@contextlib.contextmanager
def _as_traced(optimizers):
    """Without the one of tf2onnx's optimizers that makes one of two reshapes, although the second may say that it
    keeps a size of what the first has made."""
    kept = dict(optimizers)
    del optimizers["remove_back_to_back"]
    try:
        yield
    finally:
        optimizers.clear()
        optimizers.update(kept)


class _GrowingCache(KeyValueCache):
    """A cache of the tokens that were read, and no more."""

    __slots__ = ()

    def places(self, index, length):
        """As for `KeyValueCache`."""
        return tf.range(tf.shape(self.key)[2] + length)

    def seen_by(self, length):
        """As for `KeyValueCache`."""
        return None

    def extended(self, key, value, index):
        """As for `KeyValueCache`."""
        cache = _GrowingCache(tf.concat([self.key, key], axis=2), tf.concat([self.value, value], axis=2))
        return *cache, cache


def _specs(stepwise):
    specs = [tf.TensorSpec((None, None), tf.int64, name) for name in _INPUTS]
    for layer, (K, h) in enumerate(stepwise.cache_shapes):
        for part in ("key", "value"):
            specs.append(tf.TensorSpec((None, K, None, h), tf.float32, f"past_key_values.{layer}.{part}"))
    return specs


def _step_of(stepwise):
    def step(input_ids, attention_mask, position_ids, *past):
        caches = [_GrowingCache(key, value) for key, value in zip(past[::2], past[1::2], strict=True)]
        ids, positions = tf.cast(input_ids, tf.int32), tf.cast(position_ids, tf.int32)
        logits, caches = stepwise.step(ids, caches, tf.shape(past[0])[2], positions, attention_mask > 0)
        presents = {f"present.{layer}.key": cache.key for layer, cache in enumerate(caches)}
        presents |= {f"present.{layer}.value": cache.value for layer, cache in enumerate(caches)}
        # onnxruntime-genai makes room for the last token's logits alone where the graph says that there are no others.
        return {"logits": tf.ensure_shape(logits, (None, 1, None)), **presents}

    return step
