"""Rotary positions: queries and keys are turned by their places, so that their products depend on distance alone.

Shapes: B batch, H heads, T time, h head_dim, n pairs of channels that are turned.
"""

import math

import numpy as np
from keras import ops

from kerasllm import backend

# What each way to scale rotary positions needs, and what else it takes, by transformers' names.
ROPE_SCALINGS = {
    "linear": (("factor",), ()),
    "dynamic": (("factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": (
        ("short_factor", "long_factor", "original_max_position_embeddings"),
        ("factor", "attention_factor"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "proportional": ((), ("factor",)),
}
# Those whose angles are others in longer texts.
LENGTH_DEPENDENT = ("dynamic", "longrope")


class Rotation:
    """How one layer turns its heads.

    Args:
        head_dim: int.
        theta: float, the base of the wavelengths.
        share: float, of each head's channels that are turned, from the first on.
        scaling: dict or None, how angles are made smaller for contexts longer than those of the training:
            `rope_scaling` of `MultiHeadAttention`.

    Attributes:
        kind: tuple, the same for rotations that turn heads alike.
        depends_on_length: bool. The angles are others in longer texts ("dynamic" and "longrope").

    References: Su et al. 2021, https://arxiv.org/abs/2104.09864; stretched ("linear"): Chen et al. 2023,
    https://arxiv.org/abs/2306.15595; "yarn", and "dynamic" in its section 3: Peng et al. 2023,
    https://arxiv.org/abs/2309.00071; "longrope": Ding et al. 2024, https://arxiv.org/abs/2402.13753.
    """

    def __init__(self, head_dim, theta, share=1.0, scaling=None):
        self.kind = (head_dim, theta, share, repr(scaling))
        scaling = scaling or {"rope_type": "default"}
        self._scaling = scaling
        self._kind = scaling["rope_type"]
        self._width = head_dim if self._kind == "proportional" else int(head_dim * share)
        self.depends_on_length = self._kind in LENGTH_DEPENDENT
        self._attention_factor = _attention_factor(scaling)
        frequencies = theta ** (-np.arange(0, self._width, 2) / max(self._width, 1))
        self._frequencies = _scaled(frequencies, theta, share, scaling).astype("float32")
        if self._kind == "longrope":
            self._of_long_texts = (frequencies / np.array(scaling["long_factor"])).astype("float32")

    def frequencies(self, lengths=None):
        """The angles by which one place turns each pair of channels, float32 (n,), in texts of these lengths: int
        (...), which gives (..., n), or None where they do not matter."""
        if not self.depends_on_length:
            return self._frequencies
        frequencies = ops.convert_to_tensor(self._frequencies)
        original = self._scaling["original_max_position_embeddings"]
        lengths = ops.convert_to_tensor(lengths)[..., None]
        if self._kind == "longrope":
            return ops.where(lengths > original, self._of_long_texts, frequencies)
        factor = self._scaling["factor"]
        beyond = ops.cast(ops.maximum(lengths - original, 0), "float32") / original
        exponents = ops.convert_to_tensor((-np.arange(0, self._width, 2) / (self._width - 2)).astype("float32"))
        return frequencies * ops.exp(ops.log(1 + factor * beyond) * exponents)

    @property
    def original_length(self):
        """The longest text whose angles are those of short ones, where they depend on the length."""
        return self._scaling["original_max_position_embeddings"]

    def changes_at(self, lengths):
        """Whether the angles in texts of these lengths are not those in texts one token shorter: bool like them."""
        original = self.original_length
        return lengths == original + 1 if self._kind == "longrope" else lengths > original

    def table(self, position_ids, lengths, dtype):
        """Cosines and sines of the angles of places, for `turned`.

        Args:
            position_ids: int (T,) or (B, T).
            lengths: int, broadcastable to them, of the text in which each place is; None where they do not matter.
            dtype: str, of the result.
        """
        angles = ops.cast(position_ids, "float32")[..., None] * ops.convert_to_tensor(self.frequencies(lengths))
        if len(angles.shape) == 3:
            angles = angles[:, None]
        cos, sin = ops.cos(angles), ops.sin(angles)
        if self._attention_factor != 1:
            cos, sin = self._attention_factor * cos, self._attention_factor * sin
        return ops.cast(cos, dtype), ops.cast(sin, dtype)


def turned(x, cos, sin):
    """Queries or keys (B, H, T, h), turned by the angles of a `Rotation.table`.

    The first n channels are paired with the second n, as Llama and GPT-NeoX do. Other channels stay as they are.
    """
    n, rest = cos.shape[-1], []
    if 2 * n < x.shape[-1]:
        x, *rest = backend.split(x, [2 * n, x.shape[-1] - 2 * n], axis=-1)
    if backend.IS_TORCH and not rest:
        # A turn back is the gradient, in half of the passes that torch would take for it.
        return backend.with_gradient(_turned, lambda upstream, cos, sin: _turned(upstream, cos, -sin), x, cos, sin)
    return _turned(x, cos, sin, *rest)


def _turned(x, cos, sin, *rest):
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin, *rest], axis=-1)


def text_lengths(position_ids, mask=None, document_ids=None):
    """How long the text is in which each token stands: one more than its largest position.

    Args:
        position_ids: int (T,) or (B, T).
        mask: bool (B, T) or None. False hides a token, whose position does not count.
        document_ids: int (B, T) or None: each document is a text.

    Returns:
        int (1,), (B, 1) or (B, T).
    """
    counts = None if mask is None else ops.cast(mask, "bool")
    if document_ids is not None:
        together = document_ids[:, :, None] == document_ids[:, None, :]
        counts = together if counts is None else ops.logical_and(together, counts[:, None])
        position_ids = position_ids[..., None, :]
    positions = position_ids if counts is None else ops.where(counts, position_ids, 0)
    return ops.max(positions, axis=-1, keepdims=document_ids is None) + 1


def _scaled(frequencies, theta, share, scaling):
    """Frequencies as a kind of scaling makes them; for kinds that depend on the length, those of short texts."""
    kind, factor = scaling["rope_type"], scaling.get("factor", 1.0)
    if kind == "linear":
        return frequencies / factor
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    if kind == "yarn":
        return _yarn(frequencies, theta, scaling)
    if kind == "longrope":
        return frequencies / np.array(scaling["short_factor"])
    if kind == "proportional":  # Pairs as far apart as in a head that is turned whole.
        pairs = np.arange(len(frequencies))
        return np.where(pairs < int(share * 2 * len(frequencies) // 2), frequencies / factor, 0.0)
    return frequencies


def _llama3(frequencies, scaling):
    """Only what turns less than a few times in the original context is stretched."""
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling["factor"]


def _yarn(frequencies, theta, scaling):
    """Between the pairs that turn `beta_fast` times in the original context and `beta_slow` times, a ramp."""
    width = 2 * len(frequencies)

    def pair_that_turns(times):
        wavelength = scaling["original_max_position_embeddings"] / (2 * math.pi * times)
        return width * math.log(wavelength) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.get("beta_fast", 32)), pair_that_turns(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last += 0.001 * (first == last)
    stretched = np.clip((np.arange(len(frequencies)) - first) / (last - first), 0, 1)
    return (1 - stretched) * frequencies + stretched * frequencies / scaling["factor"]


def _attention_factor(scaling):
    """By what turned queries and keys are multiplied."""
    kind, factor = scaling["rope_type"], scaling.get("factor", 1.0)
    if kind not in ("yarn", "longrope"):
        return 1.0
    if "attention_factor" in scaling:
        return scaling["attention_factor"]
    if factor <= 1:
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(scaling["original_max_position_embeddings"]))
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return _growth(factor, scaling["mscale"]) / _growth(factor, scaling["mscale_all_dim"])
    return _growth(factor)


def _growth(factor, mscale=1.0):
    return 0.1 * mscale * math.log(factor) + 1


def check_rotation(theta, scaling):
    """Refuses a base or a scaling of rotary positions that there is not."""
    if not isinstance(theta, int | float) or not theta > 0:
        raise ValueError(f"`rope_theta` must be a positive number, got {theta!r}.")
    if scaling is not None:
        _check_scaling(scaling)


def check_rotated_channels(head_dim, share, scaling):
    """Refuses a share of a head's channels that cannot be turned in pairs."""
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"`partial_rotary_factor` must be a number from 0 to 1, got {share!r}.")
    kind, channels = (scaling or {}).get("rope_type"), int(head_dim * share)
    if (share == 1 or kind == "proportional") and head_dim % 2:
        raise ValueError(f"Rotary positions need an even `head_dim`, got {head_dim}.")
    if channels % 2 and kind != "proportional":
        raise ValueError(
            f"Rotary positions turn pairs of channels, got partial_rotary_factor={share} of head_dim={head_dim}: "
            f"{channels} channels."
        )
    if kind == "dynamic" and channels == 2:
        raise ValueError("`rope_scaling` of type 'dynamic' needs more than one pair of channels, got 2 channels.")
    for name in ("short_factor", "long_factor"):
        if kind == "longrope" and channels and len(scaling[name]) != channels // 2:
            raise ValueError(
                f"{name!r} of `rope_scaling` must have a number for each pair of {channels} channels that are turned, "
                f"{channels // 2}, got {len(scaling[name])}."
            )


def _check_scaling(scaling):
    kind = scaling.get("rope_type") if isinstance(scaling, dict) else scaling
    if kind not in ROPE_SCALINGS:
        raise ValueError(
            f"`rope_scaling` must be None or a dict whose 'rope_type' is one of {tuple(ROPE_SCALINGS)}, got "
            f"{scaling!r}."
        )
    needed, others = ROPE_SCALINGS[kind]
    for name in [*needed, *(name for name in others if name in scaling)]:
        value = scaling.get(name)
        if name.endswith(("short_factor", "long_factor")):
            if not isinstance(value, list | tuple) or not all(map(_is_positive, value)):
                raise ValueError(f"`rope_scaling` of type {kind!r} needs a list of positive numbers, {name!r}.")
        elif not (_is_positive(value) or name == "truncate"):
            raise ValueError(f"`rope_scaling` of type {kind!r} needs a positive {name!r}, got {value!r}.")
    if kind == "longrope" and not {"factor", "attention_factor"} & scaling.keys():
        raise ValueError("`rope_scaling` of type 'longrope' needs 'factor', how much longer texts become, got none.")


def _is_positive(value):
    return isinstance(value, int | float) and value > 0
