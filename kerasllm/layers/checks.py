"""What layers and configs refuse, in one sentence each."""

POSITIONS = ("rotary", "learned", "sinusoidal", "fairseq_sinusoidal", "relative", None)
NORMS = ("layer", "rms")
NORM_PLACEMENTS = ("pre", "post", "sandwich", "output")
QK_NORMS = (False, True, "full")
REMAT = (None, "block", "attention", "feed_forward")
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


def check_sizes(**sizes):
    """Refuses anything but positive integers, by name."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def check_heads(d_model, num_heads, num_kv_heads=None, head_dim=None):
    """Refuses numbers of heads that do not divide as they must."""
    if head_dim is None and d_model % num_heads:
        raise ValueError(
            f"`d_model` ({d_model}) must be divisible by `num_heads` ({num_heads}): each head takes an equal share. "
            f"Choose another number of heads, or give `head_dim`."
        )
    if num_kv_heads is not None and (num_kv_heads < 1 or num_heads % num_kv_heads):
        raise ValueError(
            f"`num_heads` ({num_heads}) must be divisible by `num_kv_heads` ({num_kv_heads}): each key/value head "
            f"serves an equal group of query heads."
        )


def check_positions(
    positions,
    max_length=None,
    head_dim=None,
    attention_window=None,
    rope_theta=10000.0,
    partial_rotary_factor=1.0,
    rope_scaling=None,
):
    """Refuses kinds of positions that do not exist, or do not fit the other numbers."""
    if positions not in POSITIONS:
        raise ValueError(f"`positions` must be one of {POSITIONS}, got {positions!r}.")
    if positions == "learned" and max_length is None:
        raise ValueError("Learned positions need `max_length`, the longest sequence to make a table for.")
    if attention_window is not None and (not isinstance(attention_window, int) or attention_window < 1):
        raise ValueError(f"`attention_window` must be at least 1 (a token sees itself), got {attention_window!r}.")
    if not isinstance(rope_theta, int | float) or not rope_theta > 0:
        raise ValueError(f"`rope_theta` must be a positive number, got {rope_theta!r}.")
    if rope_scaling is not None:
        _check_rope_scaling(rope_scaling)
    if positions == "rotary" and head_dim is not None:
        _check_rotated_channels(head_dim, partial_rotary_factor, rope_scaling or {})


def _check_rotated_channels(head_dim, share, scaling):
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"`partial_rotary_factor` must be a number from 0 to 1, got {share!r}.")
    kind, channels = scaling.get("rope_type"), int(head_dim * share)
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


def _check_rope_scaling(scaling):
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


def check_attention(qk_norm, attention_scale, attention_soft_cap):
    """Refuses ways to score keys that there are not."""
    if qk_norm not in QK_NORMS:
        raise ValueError(f"`qk_norm` must be one of {QK_NORMS}, got {qk_norm!r}.")
    check_positive(attention_scale=attention_scale, attention_soft_cap=attention_soft_cap)


def check_positive(**numbers):
    """Refuses numbers that are not positive, by name; None is not looked at."""
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive or None, got {value!r}.")


def check_norms(norm, norm_placement, parallel):
    """Refuses norms that do not exist, or do not fit a parallel block."""
    if norm not in NORMS:
        raise ValueError(f"`norm` must be one of {NORMS}, got {norm!r}.")
    if norm_placement not in NORM_PLACEMENTS:
        raise ValueError(f"`norm_placement` must be one of {NORM_PLACEMENTS}, got {norm_placement!r}.")
    if parallel and norm_placement != "pre":
        raise ValueError(f"A parallel block needs norm_placement='pre', got {norm_placement!r}.")


def check_remat(remat):
    """Refuses parts of a block that there are not."""
    if remat not in REMAT:
        raise ValueError(f"`remat` must be one of {REMAT}, got {remat!r}.")


def check_vectors(layer, name, value, width=None, rank=3):
    """Refuses what is no batch of sequences of vectors, such as token ids.

    Args:
        layer, name: str, of the layer and its argument.
        value: tensor or array.
        width: int or None, that of the vectors where it is known.
        rank: int, the number of axes.
    """
    shape, kind = tuple(getattr(value, "shape", ())), str(getattr(value, "dtype", type(value).__name__))
    if len(shape) != rank or "float" not in kind:
        raise ValueError(
            f"{layer} takes vectors as `{name}`, float (B, T, width), got {kind} of shape {shape}: token ids become "
            f"vectors in an Embedding."
        )
    if None not in (width, shape[-1]) and shape[-1] != width:
        raise ValueError(f"{layer} was built for vectors of width {width}, got `{name}` of shape {shape}.")


def check_shape(layer, name, value, shapes):
    """Refuses a tensor that has none of these shapes: None is any size, and 1 stands for all."""
    found = tuple(getattr(value, "shape", ()))
    for shape in shapes:
        if len(shape) == len(found) and all(
            None in pair or 1 in pair[1:] or pair[0] == pair[1] for pair in zip(shape, found, strict=True)
        ):
            return
    possible = " or ".join(str(shape).replace("None", "any") for shape in shapes)
    raise ValueError(f"`{name}` of {layer} must have the shape {possible}, got {found}.")
