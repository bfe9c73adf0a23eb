"""The tokenizer of a checkpoint in and out, with the ids at which its texts end."""

from kerasllm.files import read_json
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
        values: dict, its config.json.
        config: `TransformerConfig` of the model.

    Returns:
        A `Tokenizer`, or a pair (source, target).

    Raises:
        ValueError: where it has ids that the model's table has no rows for.
    """
    tokenizer = load_tokenizer(folder)
    _, target = check_sizes(tokenizer, config, f" in {folder}")
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    ends = generation.get("eos_token_id", values.get("eos_token_id"))
    for end in ends if isinstance(ends, list) else [ends]:
        if type(end) is int and 0 <= end < target.vocab_size and end not in target.end_ids:
            target.end_ids.append(end)
    return tokenizer


def write_tokenizer(tokenizer, folder):
    """Writes a `Tokenizer`, or the pair (source, target) that a model of Marian's has, into a folder."""
    source, target = as_pair(tokenizer)
    if source is target:
        target.save(folder)
    else:
        write_marian(source.engine, target.engine, folder)


def check_sizes(tokenizer, config, where=""):
    """The pair (source, target) of a tokenizer whose ids a model's tables have rows for.

    Raises:
        ValueError: where they have not.
    """
    source, target = as_pair(tokenizer)
    for side, rows in ((target, config.vocab_size), (source, config.source_vocab_size or config.vocab_size)):
        if side.vocab_size > rows:
            raise ValueError(f"The tokenizer{where} has {side.vocab_size} ids, and the model's table {rows} rows.")
    return source, target
