"""Attention by kernels that JAX has for some devices: cuDNN's for GPUs, the splash kernel for TPUs.

Shapes: B batch, H query heads, K key/value heads, T time, h head_dim.
"""

import functools

from kerasllm.backend.base import IS_JAX
from kerasllm.backend.devices import first_device, on_own_rows

if IS_JAX:
    import jax
    import jax.numpy as jnp

_TPU_BLOCK = 128  # what lengths and head_dim are multiples of there


def flash_attention(query, key, value, causal, window, query_ids, key_ids, soft_cap):
    """What queries read, or None where there is no kernel for that.

    Args:
        query: float (B, H, T, h), scaled: its products with keys are the scores.
        key, value: float (B, K, T, h).
        causal: bool.
        window: int or None. Keys less than `window` places away are seen.
        query_ids, key_ids: int32 (B, T), or None. A query sees the keys of its own id.
        soft_cap: float or None, the size that scores approach but never reach.
    """
    if not IS_JAX or query_ids is not key_ids:
        return None
    device = first_device().platform
    (T, h), S = query.shape[2:], key.shape[2]
    if device == "gpu" and key_ids is None and soft_cap is None and (window is None or causal) and _has_cudnn(query):
        fits = h <= 128 and not (h % 8 or T % 64 or S % 64)
        return _on_gpu(query, key, value, causal, window) if fits else None
    if device == "tpu" and T == S and not (T % _TPU_BLOCK or h % _TPU_BLOCK):
        return _on_tpu(query, key, value, causal, window, key_ids, soft_cap)
    return None


def _has_cudnn(tensor):
    """Whether cuDNN has a kernel for a tensor's dtype on this GPU: from Ampere on."""
    capability = float(getattr(first_device(), "compute_capability", 0))
    return capability >= 8 and tensor.dtype in ("float16", "bfloat16")


def _on_gpu(query, key, value, causal, window):
    behind = None if window is None else (window - 1, 0)
    options = {"scale": 1.0, "is_causal": causal, "local_window_size": behind, "implementation": "cudnn"}

    def attended(*tensors):
        return jax.nn.dot_product_attention(*(tensor.swapaxes(1, 2) for tensor in tensors), **options).swapaxes(1, 2)

    return on_own_rows(attended, [query, key, value], heads=key.shape[1])


def _on_tpu(query, key, value, causal, window, ids, soft_cap, interpret=False):
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    group = query.shape[1] // key.shape[1]
    kernel = _splash_kernel(group, query.shape[2], causal, window, soft_cap, interpret)
    of_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None))

    def attended(query, key, value, *ids):
        (B, H, T, h), K = query.shape, key.shape[1]
        query = jnp.reshape(query, (B, K, group, T, h))
        segments = SegmentIds(*ids, *ids) if ids else None
        return jnp.reshape(jax.vmap(of_heads)(query, key, value, segments), (B, H, T, h))

    return on_own_rows(attended, [query, key, value, *([] if ids is None else [ids])], heads=key.shape[1])


@functools.cache
def _splash_kernel(heads, T, causal, window, soft_cap, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    if window is not None:
        mask = splash.LocalMask((T, T), (window - 1, 0 if causal else window - 1), 0)
    else:
        mask = splash.CausalMask((T, T)) if causal else splash.FullMask((T, T))
    with jax.ensure_compile_time_eval():  # or what one trace makes would be kept for another
        return splash.make_splash_mqa_single_device(
            splash.MultiHeadMask([mask] * heads), attn_logits_soft_cap=soft_cap, interpret=interpret
        )
