"""Which token of a vocabulary pads, begins, ends and hides."""

from kerasllm.tokenizers.tokenizer_config import text_of
from kerasllm.tokenizers.training import END, PAD, START

CONFIG_KEYS = {"pad": "pad_token", "start": "bos_token", "end": "eos_token", "mask": "mask_token"}
# How published tokenizers call these tokens, in the order in which they are looked for.
_USUAL_NAMES = {
    "pad": (PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"),
    "start": (START, "<s>", "<bos>", "<|begin_of_text|>", "<|start|>", "[CLS]"),
    "end": (END, "</s>", "<eos>", "<|end_of_text|>", "<|end|>", "[SEP]"),
    "mask": ("<|mask|>", "[MASK]", "<mask>"),
}


def find_token(engine, role, token):
    """The token (str) of a role: the one that is named, or by its usual names; None for an empty str.

    Raises:
        ValueError: where the vocabulary lacks the one that is named.
    """
    if token == "":
        return None
    if token is not None and engine.token_to_id(token) is None:
        raise ValueError(f"The {role} token {token!r} is not in the vocabulary.")
    candidates = [token] if token is not None else _USUAL_NAMES[role]
    return next((name for name in candidates if engine.token_to_id(name) is not None), None)


def roles_in(settings, engine):
    """The tokens that the settings of a folder name, by role, as `Tokenizer` takes them."""
    named = {role: text_of(settings.get(key)) for role, key in CONFIG_KEYS.items()}
    known = {role: token for role, token in named.items() if token and engine.token_to_id(token) is not None}
    if "bos_token" in settings and named["start"] is None:
        known["start"] = ""  # The files say that texts begin with none, whatever the vocabulary has.
    return known


def end_ids_in(settings, tokenizer, path):
    """The ids at which text ends, by the settings of a folder, or else as the tokenizer has them."""
    ends = settings.get("end_ids", tokenizer.end_ids)
    if not isinstance(ends, list) or not all(type(end) is int and 0 <= end < tokenizer.vocab_size for end in ends):
        raise ValueError(f"tokenizer_config.json at {path} names end_ids that are no ids: {ends!r:.80}.")
    return list(ends)
