"""The tokenizer of a checkpoint in and out, with the ids at which its texts end."""

import warnings

from kerasllm.files import read_json, write_json
from kerasllm.tokenizers.older_formats import write_marian
from kerasllm.tokenizers.sides import as_pair, load_tokenizer

GENERATION = "generation_config.json"
# What a download takes of a tokenizer.
TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "*vocab.json",
    "merges.txt", "vocab.txt", "*.model", "*.spm",
)  # fmt: skip


def read_tokenizer(folder, values, config):
    """Reads the tokenizer of a folder, of any of Hugging Face's formats.

    Args:
        folder: `Path`.
        values: dict, its config.json and generation_config.json.
        config: `TransformerConfig` of the model. A tokenizer with more ids is warned of.

    Returns:
        A `Tokenizer`, or a pair (source, target).
    """
    tokenizer = load_tokenizer(folder)
    if surplus := more_ids(tokenizer, config):
        warnings.warn(f"In {folder}, {surplus}: a text that needs one of the others is refused.", stacklevel=3)
    _, target = as_pair(tokenizer)
    ends = values.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if type(end) is int and 0 <= end < target.vocab_size and end not in target.end_ids:
            target.end_ids.append(end)
    return tokenizer


def write_tokenizer(tokenizer, folder, settings):
    """Writes a `Tokenizer`, or the pair (source, target) that a model of Marian's has, into a folder, with what its
    tokenizer_config.json is to say of padding and cutting (a dict)."""
    source, target = as_pair(tokenizer)
    if source is target:
        target.save(folder)
    else:
        write_marian(source.engine, target.engine, folder)
    path = folder / "tokenizer_config.json"
    write_json(path, {**read_json(path), **settings})


def more_ids(tokenizer, config):
    """Says that a tokenizer, or one of a pair, has more ids than a model's table has rows; None where it has not."""
    source, target = as_pair(tokenizer)
    for side, rows in ((target, config.vocab_size), (source, config.source_vocab_size or config.vocab_size)):
        if side.vocab_size > rows:
            return f"the tokenizer has {side.vocab_size} ids and the model's table {rows} rows"
    return None
