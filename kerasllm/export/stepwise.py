"""A model as runtimes at the edge step through it: functions with the cache of keys and values as inputs and outputs.

Shapes: T new tokens, S places of the cache, K key/value heads, h head_dim, V vocab.
"""

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops as xla_ops

from kerasllm.generation.causality import check_causal
from kerasllm.generation.precision import in_float32
from kerasllm.generation.stepping import CachedStepper, get_stepper
from kerasllm.layers.cache import BlockCache, KeyValueCache
from kerasllm.models.shapes import length_dependent_rotations


class Stepwise(tf.Module):
    """A causal model, one step of which reads tokens behind those that a cache holds.

    Args:
        model: a `CausalLM`, or a chain of layers around a causal Transformer that each act on one token alone.
        format: str, what is written of it, for messages.

    Attributes:
        cache_shapes: list of pairs (K, h), of each layer.

    Raises:
        ValueError: if the model is not decoded with a cache, is quantized, or turns a text otherwise as it grows.
    """

    def __init__(self, model, format):
        super().__init__()
        check_causal(model)
        stepper = get_stepper(model)
        if not isinstance(stepper, CachedStepper):
            raise ValueError(
                f"{model.name} is not decoded with a cache, which {format} has as an input: that needs a CausalLM, or "
                "a chain of layers around a causal Transformer that each act on one token alone."
            )
        if length_dependent_rotations(model):
            raise ValueError(
                f"{model.name} has rotary positions that depend on the length of a text (`rope_scaling` of type "
                f"'dynamic' or 'longrope'), for which {format} has no place."
            )
        if any(getattr(layer, "kernel_layer", None) is not None for layer in model._flatten_layers()):
            raise ValueError(f"{model.name} is quantized, and {format} quantizes floats: load it with quantize=False.")
        self.variables_of_model = [variable.value for variable in model.variables]
        self._forward = in_float32(model, stepper.forward)
        self._nested = stepper.init_cache(1, 1, full=True)
        self.cache_shapes = [(cache.key.shape[1], cache.key.shape[3]) for cache in _own_caches(self._nested)]

    def step(self, tokens, caches, index, position_ids, visible=None):
        """Logits of the last token, float32 (B, 1, V), and the caches with all tokens.

        Args:
            tokens, position_ids: int32 (B, T).
            caches: list of `KeyValueCache`, or of another class with its methods.
            index: int scalar, how many tokens they hold.
            visible: bool (B, S), which places are text, or None for all.
        """
        caches = _nested_as(self._nested, iter(caches))
        logits, caches = self._forward({"token_ids": tokens}, caches, index, position_ids, visible)
        return tf.cast(logits, tf.float32), list(_own_caches(caches))


class WholeCache(KeyValueCache):
    """A cache of a fixed number of places, written by ops that LiteRT has; tokens past its end are left out."""

    __slots__ = ()

    def extended(self, key, value, index):
        """As for `KeyValueCache`."""
        cache = WholeCache(_written(self.key, key, index), _written(self.value, value, index))
        return *cache, cache


def _own_caches(caches):
    """Those of self-attention, layer by layer, of caches nested in lists."""
    for cache in caches:
        if isinstance(cache, BlockCache):
            yield cache.own
        else:
            yield from _own_caches(cache)


def _nested_as(nested, caches):
    """What `_own_caches` yields, nested again."""
    return [BlockCache(next(caches)) if isinstance(part, BlockCache) else _nested_as(part, caches) for part in nested]


def _written(old, new, index):
    """(1, K, S, h) with new tokens (1, K, T, h) from place `index` on."""
    S, T = old.shape[2], new.shape[2]
    if T == 1:
        return xla_ops.xla_dynamic_update_slice(old, new, tf.stack([0, 0, index, 0]))
    # That op would move tokens that end past the last place, as those that fill a batch up can.
    places = tf.range(S) - index
    is_new = (places >= 0) & (places < T)
    return tf.where(is_new[:, None], tf.gather(new, tf.clip_by_value(places, 0, T - 1), axis=2), old)
