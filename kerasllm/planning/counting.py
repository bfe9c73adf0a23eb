"""What a training step computes: its products of matrices, and the bytes that pass through everything else.

Letters: M tokens computed at once, D d_model, F dff, H query heads, K key/value heads, h head_dim, T context, V vocab,
E experts, k experts of a token.
"""

import dataclasses
from typing import NamedTuple

from kerasllm.layers.tiles import OF_ONE, is_long

FORWARD, BACKWARD = 1, 2  # products of a kernel: with inputs; with gradients, by inputs and by the kernel


class Product(NamedTuple):
    """Products of matrices of one size.

    Attributes:
        flops: float, of one.
        times: float, how often it is made in a step.
        kind: "dense", or "attention" for the many small ones of heads.
    """

    flops: float
    times: float
    kind: str = "dense"


def products_of_step(training):
    """The `Product`s of a training step, of a `models.memory.TrainingMemory`."""
    config, found = training.config, []
    M, V = training.tokens_at_once, config.vocab_size
    parts, is_adapted = training.micro_batches, training.adapter_rank is not None
    by_kernel = FORWARD + BACKWARD - is_adapted  # the gradient by a kernel that is not trained is never made
    for options in training.layers:
        again = options.remat
        D, F, H = config.d_model, config.dff, config.num_heads
        h, K = options.head_dim or D // H, options.num_kv_heads or H
        attention, feed_forward = (again in ("block", name) for name in ("attention", "feed_forward"))
        E, k = (options.num_experts, options.experts_per_token) if options.num_experts else (1, 1)
        widths = [(D, (H + 2 * K) * h, attention, 1, 1), (H * h, D, attention, 1, 1)]
        widths += [(D, F * (2 if options.gated else 1), feed_forward, E, k), (F, D, feed_forward, E, k)]
        widths += [(D, E, feed_forward, 1, 1)] if options.num_experts else []
        found += [Product(2 * M * k / E * n * m, E * parts * (by_kernel + more)) for n, m, more, E, k in widths]
        pairs = options.attention_pairs(training.context, training.causal)
        found.append(Product(2 * M * H * h * pairs, parts * (6 + 2 * attention), "attention"))
    chunk = min(training.loss_chunk or M, M)
    found.append(Product(2 * chunk * config.d_model * V, parts * by_kernel * M / chunk))
    if is_adapted:
        found.append(Product(2 * M * training.numbers_trained, parts * (FORWARD + BACKWARD)))
    return found


def flops_of_step(training):
    """Operations of a step, with what is computed again."""
    return sum(product.flops * product.times for product in products_of_step(training))


def step_seconds(training, device):
    """Seconds of a training step, or None where nothing is known of the device's speed.

    On this machine each product takes what one of its size was measured to take, and what lies between takes as long as
    in the runs that it was calibrated with, for each byte. Of another device the share of its peak is assumed that
    `Device.share_of_peak` says, and that its bandwidth is reached where that takes longer.
    """
    dtype = _dtype(training)
    if device.is_this:
        return _seconds_here(training, device.calibration, dtype)
    if dtype not in device.flops:
        return None
    computing = flops_of_step(training) / (device.flops[dtype] * device.share_of_peak)
    passes = training.kept_bytes + 7 * 4 * training.numbers_trained
    return max(computing, passes / device.bandwidth) if device.bandwidth else computing


def passes_of_step(training):
    """What a step passes over beside its products, by the names that `Calibration.pass_seconds` has.

    Returns:
        A dict of floats: "bytes" of activations, "scores" of attention where contexts are long enough that none is
        kept, numbers that pass through a "gelu", and "logits".
    """
    config, size = training.config, 4 if training.precision == "float32" else 2
    T, tokens = training.context, training.tokens_at_once * training.micro_batches
    kept = scores = gelu = 0
    for options in training.layers:
        whole = dataclasses.replace(options, remat=None)
        of_block = whole.block_kept(config.d_model, config.num_heads, config.dff, T, training.causal, size)[0]
        less = options.block_kept(config.d_model, config.num_heads, config.dff, T, training.causal, size)[0]
        kept += of_block + (of_block - less) / (FORWARD + BACKWARD)  # what is computed again
        attention, feed_forward = (
            1 + (options.remat in ("block", name)) / (FORWARD + BACKWARD) for name in ("attention", "feed_forward")
        )
        if is_long(T, T):  # of the tiles along the diagonal, half is computed for nothing
            seen = options.attention_pairs(T, training.causal) + OF_ONE / 2
            scores += config.num_heads * seen * attention
        gelu += options.activation.startswith("gelu") * config.dff * feed_forward
        if training.adapter_rank:  # adapters read and write float32 beside each linear layer
            kept += 4 / size * options.linear_widths(config.d_model, config.num_heads, config.dff)
    return {
        "bytes": kept * tokens * size,
        "scores": scores * tokens,
        "gelu": gelu * tokens,
        "logits": tokens * config.vocab_size,
    }


def _seconds_here(training, calibration, dtype):
    if not calibration.knows_time_of(dtype):
        return None
    passes = passes_of_step(training).items()
    of_passes = sum(amount * calibration.pass_seconds[dtype][name] for name, amount in passes)
    return seconds_without_passes(training, calibration) + of_passes


def seconds_without_passes(training, calibration):
    """Seconds of what is measured by itself: products, the optimizer, and what is no computing."""
    dtype = _dtype(training)
    seconds = calibration.step_seconds + training.micro_batches * calibration.layer_seconds * len(training.layers)
    for flops, times, kind in products_of_step(training):
        rate = calibration.attention[dtype] if kind == "attention" else calibration.matmul_rate(flops, dtype)
        seconds += times * flops / rate
    # Adam reads and writes weights and two moments, and reads gradients; the norm and the clipping pass over them too.
    return seconds + 10 * 4 * training.numbers_trained / calibration.bandwidth


def _dtype(training):
    return training.precision.removeprefix("mixed_")
