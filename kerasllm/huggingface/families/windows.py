"""How far layers see: the rows of families of which some or all layers see a window of the last tokens only, or of
those on both sides, and those of rotary positions that are others there."""

from kerasllm.huggingface.families.family import Row
from kerasllm.huggingface.families.rotary import longest_text, read_rotation, trained_length, write_rotation

SLIDING, FULL = "sliding_attention", "full_attention"
_OLDER_TYPES = {"attention": FULL}
_ROTATION = ("rope_theta", "rope_scaling", "partial_rotary_factor")


def windows(types, write):
    """A row of windows.

    Args:
        types: function (`Settings`, dict of the fields of the rows before) -> list, what each layer is where
            `layer_types` does not say it.
        write: function (`TransformerConfig`) -> dict.
    """

    def read(settings, fields):
        window = settings.take("sliding_window")
        return {"attention_window": [window if kind == SLIDING else None for kind in types_of(settings, fields, types)]}

    return Row(read, write)


def types_of(settings, fields, types):
    """What each layer is: `SLIDING` or `FULL`."""
    found = [_OLDER_TYPES.get(kind, kind) for kind in settings.take("layer_types", types(settings, fields))]
    for kind in found:
        if kind not in (SLIDING, FULL):
            settings.refuse("layer_types", kind, SLIDING, FULL)
    return found


def rotary_by_type(types, thetas, scaled):
    """The row of rotary positions of which layers with a window and layers without have each their own, and of the
    longest text, as in `rotary.rotary`.

    Args:
        types: see `windows`.
        thetas: dict from `SLIDING` and `FULL` to pairs: the older setting of the base, and what an absent one means.
        scaled: tuple, those of which the older `rope_scaling` is.
    """

    def read(settings, fields):
        newer, length = settings.take("rope_parameters", {}), settings.take("max_position_embeddings")
        older, rotations = settings.take("rope_scaling", {}), {}
        for kind, (name, theta) in thetas.items():
            given = {**(newer.get(kind) or {}), **(older if kind in scaled else {})}
            given["truncate"] = None  # It is not read by kind.
            rotations[kind] = read_rotation(settings, given, settings.take(name, theta), length)
        by_layer = [rotations[kind] for kind in types_of(settings, fields, types)]
        return {
            **{name: [rotation[name] for rotation in by_layer] for name in _ROTATION},
            "max_length": max(longest_text(rotation["rope_scaling"], length) for rotation in by_layer),
        }

    def write(config):
        rotations = [write_rotation(*one) for one in zip(*map(config.by_layer, _ROTATION), strict=True)]
        by_type = {kind: {"rope_type": "default", "rope_theta": theta} for kind, (_, theta) in thetas.items()}
        by_type |= zip(types_and_window(config)[0], rotations, strict=True)
        scaling = by_type[scaled[0]]
        is_of_all = scaling["rope_type"] != "default" and all(by_type[kind] == scaling for kind in scaled)
        return {
            "max_position_embeddings": trained_length(config),
            **{name: by_type[kind]["rope_theta"] for kind, (name, _) in thetas.items()},
            "rope_scaling": scaling if is_of_all else None,
            "rope_parameters": by_type,
        }

    return Row(read, write)


def _from_one_layer_on(settings, fields):
    """Every layer has a window, or with Qwen's settings those from one on."""
    used, first = settings.take("use_sliding_window", True), settings.take("max_window_layers", 0)
    return [SLIDING if used and i >= first else FULL for i in range(fields["num_layers"])]


def _write_types(config):
    """Of families that always have a window: transformers needs one that no layer has, too."""
    types, window = types_and_window(config)
    return {"layer_types": types, "sliding_window": window or config.max_length}


def _write_switch(config):
    """Of families that say whether there is a window."""
    types, window = types_and_window(config)
    return {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}


def types_and_window(config):
    """What each layer is, and the window of those that have one, or None."""
    by_layer = config.by_layer("attention_window")
    return [FULL if window is None else SLIDING for window in by_layer], next(filter(None, by_layer), None)


ONE_WINDOW = windows(_from_one_layer_on, lambda config: {"sliding_window": config.attention_window})
WINDOW_TYPES = windows(_from_one_layer_on, _write_types)
WINDOW_SWITCH = windows(_from_one_layer_on, _write_switch)
