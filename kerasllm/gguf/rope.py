"""Rotary positions: what config.json says of them, and keys and tensors say in a GGUF file.

llama.cpp stretches frequencies by one factor ("linear"), as YaRN does, or by a factor for each pair of channels, which
is a tensor: `rope_freqs`, for Llama 3's way, or two of them for short and long texts, of which it takes one by the size
of the context ("longrope").
"""

import math

import numpy as np

from kerasllm.layers.rotary import Rotation

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (FREQUENCIES, LONG, SHORT)
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # only their proportion to the length counts
_YARN = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}


def read_rope(metadata, tensors, head_dim):
    """The parameters of the rotation of a file.

    Args:
        metadata: Metadata.
        tensors: function (name) -> array or None, of the tensors in `TENSORS`.
        head_dim: int.

    Returns:
        dict, `rope_parameters` of config.json.
    """
    theta = float(metadata.take("rope.freq_base", float, 10000.0))
    width = metadata.take("rope.dimension_count", int, head_dim)
    found = {"rope_theta": theta, **({"partial_rotary_factor": width / head_dim} if width != head_dim else {})}
    return {**found, **_scaling(metadata, tensors, theta, width)}


def _scaling(metadata, tensors, theta, width):
    kind = metadata.take("rope.scaling.type", str, "none")
    factor = metadata.take("rope.scaling.factor", float, metadata.take("rope.scale_linear", float, 1.0))
    trained = metadata.take("rope.scaling.original_context_length", int, metadata.take("context_length", int))
    magnitude = metadata.take("rope.scaling.attn_factor", float, None)
    betas = {name: float(metadata.take(key, float)) for name, key in _YARN.items() if key in metadata}
    arrays = {name: tensors(name) for name in TENSORS}
    of_two = kind == "longrope" or metadata.architecture == "phi3"
    if of_two and arrays[LONG] is not None and arrays[SHORT] is not None:
        factors = {"long_factor": _decimals(arrays[LONG]), "short_factor": _decimals(arrays[SHORT])}
        return _of_two(factors, trained, metadata.take("context_length", int), magnitude)
    if arrays[FREQUENCIES] is not None:
        return _of_factors(arrays[FREQUENCIES], theta, width, trained)
    if kind == "yarn":
        return {"rope_type": kind, "factor": factor, "original_max_position_embeddings": trained, **betas}
    if kind == "linear" or (kind == "none" and "rope.scale_linear" in metadata):
        return {"rope_type": "linear", "factor": factor}
    if kind not in ("none", "longrope"):
        metadata.refuse("rope.scaling.type", kind, "'none', 'linear', 'yarn' or 'longrope'")
    return {"rope_type": "default"}


def _of_two(factors, trained, length, magnitude):
    found = {"rope_type": "longrope", **factors, "original_max_position_embeddings": trained}
    usual = _usual_magnitude(length, trained)
    if magnitude is not None and not math.isclose(magnitude, usual, rel_tol=1e-6):
        found["attention_factor"] = float(magnitude)
    return found


def _usual_magnitude(length, trained):
    return math.sqrt(1 + math.log(length / trained) / math.log(trained)) if length > trained else 1.0


def _of_factors(factors, theta, width, trained):
    """Llama 3's parameters where the factors are those that they make; else the factors themselves."""
    plain = Rotation(width, theta).frequencies()
    factor, low, high = float(factors.max()), *_LLAMA3.values()
    lengths = [trained]
    for place in np.flatnonzero((factors > 1 + 1e-4) & (factors < factor - 1e-4))[:1]:
        smooth = (1 / float(factors[place]) - 1 / factor) / (1 - 1 / factor)
        lengths.append(round(2 * math.pi / float(plain[place]) * (smooth * (high - low) + low)))
    for length in lengths:
        guess = {"rope_type": "llama3", "factor": factor, **_LLAMA3, "original_max_position_embeddings": length}
        if np.allclose(_factors(width, theta, guess), factors, rtol=1e-4):
            return guess
    both = {"short_factor": _decimals(factors), "long_factor": _decimals(factors)}
    return {"rope_type": "longrope", **both, "original_max_position_embeddings": trained, "attention_factor": 1.0}


def _factors(width, theta, scaling):
    """By what a rotation's frequencies are divided, float32."""
    return Rotation(width, theta).frequencies() / Rotation(width, theta, scaling=scaling).frequencies()


def _decimals(array):
    return [float(str(number)) for number in array.astype("float32")]


def write_rope(parameters, head_dim, length):
    """The keys and tensors of a rotation.

    Args:
        parameters: dict, `rope_parameters` of config.json.
        head_dim: int.
        length: int, the longest text.

    Returns:
        dict of keys without the name of the architecture, and dict of float32 arrays by name.
    """
    theta, kind = float(parameters["rope_theta"]), parameters["rope_type"]
    width = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    trained = parameters.get("original_max_position_embeddings")
    keys = {"rope.freq_base": theta, "rope.dimension_count": width}
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(parameters["factor"])}
    if kind in ("yarn", "llama3", "longrope"):
        keys["rope.scaling.original_context_length"] = trained
    if kind == "yarn":
        keys |= {key: float(parameters[name]) for name, key in _YARN.items() if name in parameters}
    if kind == "llama3":
        return keys, {FREQUENCIES: _factors(width, theta, parameters)}
    if kind == "longrope":
        keys["rope.scaling.type"] = kind
        magnitude = parameters.get("attention_factor") or _usual_magnitude(length, trained)
        keys["rope.scaling.attn_factor"] = magnitude
        factors = {LONG: parameters["long_factor"], SHORT: parameters["short_factor"]}
        return keys, {name: np.array(values, "float32") for name, values in factors.items()}
    return keys, {}
