"""What a device computes fastest in."""

from kerasllm import backend

POLICIES = ("float32", "mixed_bfloat16", "bfloat16", "mixed_float16")


def precision(name: str = "auto") -> tuple[str, str]:
    """The dtype policy to train in on this device, and why.

    Args:
        name: "auto", or a policy's name to take as it is.

    Returns:
        A pair of str: the name of a Keras dtype policy, to be given as `dtype` or to `keras.config.set_dtype_policy`,
        and a sentence that says why.

    Raises:
        ValueError: for a name that is neither "auto" nor a policy to train in.

    Example:
        >>> policy, why = kerasllm.training.precision("auto")
        >>> model = kerasllm.models.CausalLM(config, dtype=policy)
    """
    if name != "auto":
        if name not in POLICIES:
            raise ValueError(f"There is no precision {name!r}; choose auto or one of {', '.join(POLICIES)}.")
        return name, "it was asked for"
    device = backend.fast_bfloat16_device()
    if device:
        return "mixed_bfloat16", f"{device} multiplies faster in bfloat16"
    return "float32", "this device multiplies no faster in bfloat16"
