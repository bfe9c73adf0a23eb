"""How far layers see: the rows of families of which some or all layers see a window of the last tokens only."""

from kerasllm.huggingface.families.family import Row

SLIDING, FULL = "sliding_attention", "full_attention"
_OLDER_TYPES = {"attention": FULL}


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


def _from_one_layer_on(settings, fields):
    """Every layer has a window, or with Qwen's settings those from one on."""
    used, first = settings.take("use_sliding_window", True), settings.take("max_window_layers", 0)
    return [SLIDING if used and i >= first else FULL for i in range(fields["num_layers"])]


def _write_types(config):
    """Of families that always have a window: transformers needs one that no layer has, too."""
    types, window = _types_and_window(config)
    return {"layer_types": types, "sliding_window": window or config.max_length}


def _write_switch(config):
    """Of families that say whether there is a window."""
    types, window = _types_and_window(config)
    return {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}


def _types_and_window(config):
    by_layer = config.by_layer("attention_window")
    return [FULL if window is None else SLIDING for window in by_layer], next(filter(None, by_layer), None)


ONE_WINDOW = windows(_from_one_layer_on, lambda config: {"sliding_window": config.attention_window})
WINDOW_TYPES = windows(_from_one_layer_on, _write_types)
WINDOW_SWITCH = windows(_from_one_layer_on, _write_switch)
