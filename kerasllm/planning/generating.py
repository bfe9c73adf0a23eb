"""What a model takes to generate: memory, and how fast it writes."""

import dataclasses

from kerasllm.planning.device_table import Device, device_of
from kerasllm.planning.generation_times import (
    NUMBER_BYTES,
    GenerationTimes,
    GenerationWork,
    cached_numbers,
    seen_tokens,
)
from kerasllm.planning.training_plan import KERNEL_BYTES


@dataclasses.dataclass(frozen=True)
class GenerationPlan:
    """What generating takes, as `generation_plan` foresees it.

    Attributes:
        device: `Device`.
        weight_bytes: int.
        cache_bytes_per_token: int, keys and values of one token of one row.
        cache_bytes: int, of all rows at full length.
        tokens_per_second: float, of all rows together, while they are half long; None where nothing is known of the
            device's speed, or on this machine of quantised kernels'.
        first_token_seconds: float, from a prompt of the full length to its first token, or None.
    """

    device: Device
    weight_bytes: int
    cache_bytes_per_token: int
    cache_bytes: int
    tokens_per_second: float | None
    first_token_seconds: float | None


def generation_plan(config, batch_size=1, context=None, *, dtype="float32", quantize=None, device="this"):
    """What generating takes: a step reads all weights and the cache once, and a prompt is one product with each.

    Args:
        config: TransformerConfig, of a model without an encoder.
        batch_size: int, rows that are written at once.
        context: int, tokens of a row, prompt and all; None means `max_length`.
        dtype: str, of weights and cache: "float32", "bfloat16" or "float16".
        quantize: str or None, of the kernels of inner layers, such as "nf4" or "int8".
        device: str or `Device`, as for `plan`.

    Returns:
        A `GenerationPlan`.

    Raises:
        ValueError: if a value is not possible.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("gpt2")
        >>> kerasllm.planning.generation_plan(config).cache_bytes_per_token == 2 * 12 * 768 * 4
        True
    """
    if dtype not in NUMBER_BYTES or quantize not in (None, *KERNEL_BYTES):
        raise ValueError(
            f"`dtype` is one of {', '.join(NUMBER_BYTES)} and `quantize` None or one of {', '.join(KERNEL_BYTES)}, got "
            f"{dtype!r} and {quantize!r}."
        )
    device, size, T = device_of(device), NUMBER_BYTES[dtype], context or config.max_length
    layers = config.options_by_layer()
    inner = sum(options.block_parameters(config.d_model, config.num_heads, config.dff) for options in layers)
    weights = (config.num_parameters() - inner) * size + inner * min(size, KERNEL_BYTES.get(quantize, size))
    of_token = sum(cached_numbers(options, config) for options in layers) * size
    cache = sum(cached_numbers(options, config) * seen_tokens(options, T) for options in layers) * size
    cache *= batch_size
    speed = first = None
    if dtype in device.calibration.generation and quantize is None:
        times = GenerationTimes(**device.calibration.generation[dtype])
        speed = batch_size / times.step_seconds(GenerationWork.of(config, batch_size, max(T // 2, 1), dtype))
        first = times.prompt_seconds(GenerationWork.of(config, batch_size, T, dtype))
    elif dtype in device.flops and device.bandwidth:
        rate = device.flops[dtype] * device.share_of_peak
        of_kernels = [
            options.block_parameters(config.d_model, config.num_heads, config.dff, of_tokens=batch_size)
            for options in layers
        ]
        # Of a mixture, what no token of a step reads stays in memory.
        read = weights - (inner - sum(of_kernels)) * min(size, KERNEL_BYTES.get(quantize, size))
        of_row = 2 * config.num_parameters(embeddings=False, of_tokens=1)
        of_row += 2 * config.tie_embeddings * config.vocab_size * config.d_model
        speed = batch_size / max((read + cache / 2) / device.bandwidth, batch_size * of_row / rate)
        first = max(weights / device.bandwidth, batch_size * T * of_row / rate)
    return GenerationPlan(device, round(weights), of_token, round(cache), speed, first)
