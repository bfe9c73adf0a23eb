"""A tokenizer of ours as the metadata of a GGUF file."""

import json
import warnings

from kerasllm.gguf.pre_tokenizers import WORDS
from kerasllm.gguf.reading_tokenizers import (
    BYTE,
    BYTE_LEVEL,
    CONTROL,
    ENDS,
    NORMAL,
    ROLES,
    SENTENCEPIECE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    WHOLE,
    read_tokenizer,
)
from kerasllm.tokenizers.older_formats.sentencepiece_models import merges_of
from kerasllm.tokenizers.word_splitting import bpe_pre_tokenizer

_SPACE = "▁"
_NEAREST = "llama-bpe"  # to the words of vocabularies that are trained here
_OF_NO_MERGE = -1e6  # the score of a piece that is not made of two


def tokenizer_keys(tokenizer, rows, architecture):
    """The keys that say what a tokenizer is; where they say less than there is, a whole tokenizer.json among them.

    Args:
        tokenizer: `Tokenizer`.
        rows: int, of the model's table: one that no token has gets a token that stands for nothing.
        architecture: str, of the model.

    Returns:
        dict.

    Raises:
        ValueError: if llama.cpp has no such tokenizer.
    """
    spec = json.loads(tokenizer.engine.to_str())
    model = spec["model"]
    if model["type"] != "BPE" or not model["merges"]:
        raise ValueError(
            f"GGUF holds tokenizers of kind BPE with merges, and this one is of kind {model['type']}"
            f"{' without' if model['type'] == 'BPE' else ''}; train the model with --tokenizer bpe."
        )
    is_byte_level = '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])
    named, types = _tokens(tokenizer, spec, rows, unknown=None if is_byte_level else model["unk_token"])
    found = _byte_level(tokenizer.engine, spec) if is_byte_level else _sentencepiece(spec, named, types)
    found |= {"tokens": named, "token_type": types, **_special(tokenizer)}
    keys = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    if tokenizer.chat_template:
        keys["tokenizer.chat_template"] = tokenizer.chat_template
    again = read_tokenizer({"general.architecture": architecture, **keys}, "the file")
    whole = {} if json.loads(again.engine.to_str()) == spec else {WHOLE: tokenizer.engine.to_str()}
    return {**keys, **whole}


def _tokens(tokenizer, spec, rows, unknown):
    """The tokens in the order of their ids, and what kind each is of."""
    has_bytes, added = spec["model"]["byte_fallback"], {token["content"]: token for token in spec["added_tokens"]}
    by_id = {index: token for token, index in tokenizer.engine.get_vocab(with_added_tokens=True).items()}
    tokens, types = [], []
    for index in range(rows):
        token = by_id.get(index)
        kind = UNUSED if token is None else NORMAL
        if token is not None and token == unknown:
            kind = UNKNOWN
        elif token in added:
            kind = CONTROL if added[token]["special"] else USER_DEFINED
        elif has_bytes and token is not None and _is_byte(token):
            kind = BYTE
        if kind == USER_DEFINED and _SPACE in token:  # llama.cpp looks for them in the text as it is
            token = token.replace(_SPACE, " ")
        tokens.append(f"[PAD{index}]" if token is None else token)
        types.append(kind)
    return tokens, types


def _is_byte(token):
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _byte_level(engine, spec):
    """The keys of a byte-level vocabulary."""
    model = spec["model"]
    if spec["normalizer"] not in (None, {"type": "NFC"}):
        raise ValueError(f"GGUF has no place for a tokenizer's normalizer, {spec['normalizer']!r:.80}.")
    words = _words_of(spec)
    if words is None:
        if repr(engine.pre_tokenizer) != repr(bpe_pre_tokenizer()):
            raise ValueError(f"llama.cpp finds no words as this tokenizer does: {engine.pre_tokenizer!r:.200}.")
        warnings.warn(
            "llama.cpp finds words as Llama 3 does and not as vocabularies trained here do: numbers and several spaces "
            "in a row get other ids there than the model was trained on. All else is the same.",
            stacklevel=5,
        )
        words = _NEAREST
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    return {"model": BYTE_LEVEL, "pre": words, "merges": merges}


def _words_of(spec):
    """What llama.cpp calls the way in which words are found; None where it has none."""
    found = _without_offsets(spec["pre_tokenizer"])
    for row in WORDS:
        wanted = _without_offsets(json.loads(row.pre_tokenizer().__getstate__()))
        if wanted == found and row.takes_whole == spec["model"]["ignore_merges"]:
            return row.names[0]
    return None


def _without_offsets(part):
    """A pre-tokenizer without what changes no ids."""
    steps = part["pretokenizers"] if part["type"] == "Sequence" else [part]
    return [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]


def _sentencepiece(spec, tokens, types):
    """The keys of a model of SentencePiece, whose merges are an order of pieces there."""
    made = ["".join(merge) for merge in spec["model"]["merges"]]
    places = {piece: -float(place) for place, piece in reversed([*enumerate(made)])}
    scores = [places.get(token, _OF_NO_MERGE) for token in tokens]
    pieces = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == NORMAL}
    if [*map("".join, merges_of(pieces))] != made:
        raise ValueError("GGUF holds merges as an order of the tokens, and this tokenizer's cannot be had of one.")
    steps = _steps(spec["normalizer"], "normalizers") + _steps(spec["pre_tokenizer"], "pretokenizers")
    if unknown := [step for step in steps if step["type"] not in ("Prepend", "Replace", "Metaspace", "Split")]:
        raise ValueError(f"GGUF has no place for a step of this tokenizer, {unknown[0]!r:.80}.")
    begins = [step for step in steps if step["type"] == "Prepend" or step.get("prepend_scheme") in ("first", "always")]
    return {"model": SENTENCEPIECE, "pre": "default", "scores": scores, "add_space_prefix": bool(begins)}


def _steps(part, name):
    return [] if part is None else part.get(name, [part])


def _special(tokenizer):
    """The tokens with a role, and which of them stand around a text."""
    ids = {key: getattr(tokenizer, f"{role}_id") for role, key in ROLES.items()}
    ends = [end for end in tokenizer.end_ids if end != tokenizer.end_id]
    ids |= dict(zip(ENDS[1:], ends, strict=False))
    ids["unknown_token_id"] = tokenizer.unknown_id
    around = tokenizer.engine.encode("").ids
    return {
        **{key: index for key, index in ids.items() if index is not None},
        "add_bos_token": tokenizer.start_id is not None and around[:1] == [tokenizer.start_id],
        "add_eos_token": len(around) > 0 and around[-1] == tokenizer.end_id and around != [tokenizer.start_id],
    }
