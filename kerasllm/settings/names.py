"""How settings are called: the fields of `model` that have flags of their own, and other names of settings."""

from kerasllm.settings.values import about

# Fields of `model` with flags of their own.
MODEL_FLAGS = {
    "num_layers": about(int, "number of Transformer blocks; to translate, of encoder and decoder each", least=1),
    "d_model": about(int, "width of the model", least=1),
    "num_heads": about(int, "number of attention heads; divides --d-model", least=1),
    "dff": about(int, "width of the feed-forward layers", least=1),
    "max_length": about(int, "tokens in a training window, and the longest the model takes", least=2),
    "dropout": about(float, "share of activations dropped in training (default: the preset's, or 0)", least=0, below=1),
    "attention_dropout": about(
        float, "share of attention probabilities dropped in training (default: as --dropout)", least=0, below=1
    ),
    "remat": about(
        str, "what the backward pass computes again in each layer, to save memory: block, attention or feed_forward"
    ),
}
# Other names of settings, in flags and files.
SHORT = {
    "layers": "num_layers",
    "heads": "num_heads",
    "context": "max_length",
    "lr": "learning_rate",
    "warmup": "warmup_steps",
    "ema": "ema_momentum",
    "from": "base",
}


def in_own_names(given):
    """Settings under the names of the fields of `TrainSettings`: short names said in full, fields of the model in it.

    Args:
        given: dict of settings, as in a YAML file.

    Raises:
        ValueError: for what is said twice.
    """
    values, model = {}, {} if given.get("model") is None else given["model"]
    if not isinstance(model, dict):
        raise ValueError(f"model takes fields of TransformerConfig with their values, not {model!r}.")
    model = dict(model)
    for name, value in given.items():
        ours = SHORT.get(name, name)
        if ours == "model" or (value is None and ours in MODEL_FLAGS):
            continue
        place = model if ours in MODEL_FLAGS else values
        if ours in place:
            raise ValueError(f"{ours} is given twice, once under another name or under `model`: give it once.")
        place[ours] = value
    return {**values, "model": model} if model else values


def merge_settings(settings, over):
    """Settings, and others that win over them; of `model`, field by field. Both as `in_own_names` takes them."""
    settings, over = in_own_names(settings), in_own_names(over)
    model = merged(settings.get("model", {}), over.get("model", {}))
    return {**settings, **over, "model": model}


def merged(fields, over):
    """Fields, and others that win over them; of those that are mappings in both, field by field."""
    both = {name: (fields[name], over[name]) for name in fields.keys() & over.keys()}
    mappings = {name: merged(*two) for name, two in both.items() if all(isinstance(one, dict) for one in two)}
    return {**fields, **over, **mappings}
