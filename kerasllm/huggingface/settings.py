"""Reading a config.json so that nothing it asks for is passed over."""

# What concerns other programs, the training that made the weights, or text: none of it changes logits.
_HARMLESS = {
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache", "initializer_range",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "unk_token_id",
    "decoder_start_token_id", "id2label", "label2id", "problem_type", "return_dict", "output_attentions",
    "output_hidden_states", "pretraining_tp", "task_specific_params", "tokenizer_class", "max_length", "name_or_path",
    "chunk_size_feed_forward", "is_encoder_decoder", "finetuning_task", "num_labels", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "num_beams", "early_stopping", "no_repeat_ngram_size", "length_penalty",
    "min_length", "prefix", "output_past", "cache_implementation",
}  # fmt: skip
# Names of activations in Hugging Face's configs.
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}

# What a layer may see, in `layer_types`.
WINDOW, EVERYTHING = "sliding_attention", "full_attention"

_SIZES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "dff": "intermediate_size",
}


class Settings:
    """The settings of a config.json, each of which must be read, or known to change nothing.

    Args:
        values: dict.
        path: where they are from, for messages.

    Attributes:
        values: dict, all of them.
    """

    def __init__(self, values, path):
        self.values = values
        self._left = {key: value for key, value in values.items() if not key.startswith("_") and key not in _HARMLESS}
        self._path = path

    def take(self, name, default=None):
        """A setting; the default where it is absent or null."""
        value = self._left.pop(name, None)
        return default if value is None else value

    def optional(self, name, default=None):
        """A setting that null switches off; the default where it is absent."""
        return self._left.pop(name, default)

    def need(self, name):
        """A setting without which there is no model."""
        if self._left.get(name) is None:
            raise ValueError(f"{self._path} lacks {name!r}; copy the folder again.")
        return self._left.pop(name)

    def only(self, name, *allowed):
        """Refuses a setting that has another value than these; the first of them is the default."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            self.refuse(name, value, " or ".join(map(repr, allowed)))
        return value

    def refuse(self, name, value, possible):
        raise ValueError(
            f"{self._path} asks for {name}={value!r}, and kerasllm computes only {possible}, which gives other logits."
        )

    def ignore(self, *names):
        """Settings that change nothing here."""
        for name in names:
            self._left.pop(name, None)

    def sizes(self):
        """What most architectures name alike."""
        return {ours: self.need(theirs) for ours, theirs in _SIZES.items()}

    def activation(self, name, default):
        value = self.take(name, default)
        if value not in _ACTIVATIONS:
            raise ValueError(f"{self._path} asks for {name}={value!r}; kerasllm knows {', '.join(_ACTIVATIONS)}.")
        return _ACTIVATIONS[value]

    def layer_types(self, default):
        """What each layer sees: a window, or everything."""
        kinds = self.take("layer_types", default)
        for kind in kinds:
            if kind not in (WINDOW, EVERYTHING):
                self.refuse("layer_types", kind, f"{WINDOW!r} or {EVERYTHING!r}")
        return kinds

    def finish(self):
        """Refuses what nobody has read and is not switched off."""
        left = {key: value for key, value in self._left.items() if value not in (None, False, [], {})}
        if left:
            key = min(left)
            raise ValueError(
                f"{self._path} has the setting {key}={left[key]!r}, which kerasllm does not know: it could change the "
                "logits. Take it out of the file if you know that it does not."
            )


def size_settings(config):
    """What `Settings.sizes` reads."""
    return {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}


def activation_name(name):
    """Hugging Face's name of an activation of ours."""
    return next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == name)


def attention_bias(config):
    return config.use_bias if config.attention_bias is None else config.attention_bias


def windows(config):
    """The window of a model, and which of its layers have it."""
    by_layer = config.by_layer("attention_window")
    kinds = [EVERYTHING if window is None else WINDOW for window in by_layer]
    return {"sliding_window": next(filter(None, by_layer), None), "layer_types": kinds}
