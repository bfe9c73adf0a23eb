"""The tokenizer of a GGUF file, from its metadata."""

import json
import re

import tokenizers
from tokenizers import AddedToken, decoders, models

from kerasllm.gguf.pre_tokenizers import WORDS
from kerasllm.tokenizers import Tokenizer, classes
from kerasllm.tokenizers.older_formats.sentencepiece_models import make_engine, new_model

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # as SentencePiece numbers them too
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # `tokenizer.ggml.model`
WHOLE = "tokenizer.huggingface.json"  # a whole tokenizer.json, where the other keys say less
ROLES = {"start": "bos_token_id", "end": "eos_token_id", "pad": "padding_token_id", "mask": "mask_token_id"}
_USUAL_IDS = {"bos_token_id": 1, "eos_token_id": 2}  # of SentencePiece's files that do not say them
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Control tokens at which llama.cpp ends a text whatever the keys say.
_END_NAMES = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>")
_PADDING = re.compile(r"\[PAD\d+\]")


def read_tokenizer(metadata, path):
    """Makes the tokenizer that a file describes.

    Args:
        metadata: dict, all of the file's.
        path: where it is, for messages.

    Returns:
        `Tokenizer`.

    Raises:
        ValueError: if a key is missing or damaged, or the tokenizer is of a kind that is not known here.
    """
    keys = _Keys(metadata, path)
    kind = keys.take("model", str)
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        raise ValueError(
            f"{path} holds a tokenizer of kind {kind!r}; kerasllm reads {BYTE_LEVEL!r} (byte-level BPE) and "
            f"{SENTENCEPIECE!r} (SentencePiece's BPE)."
        )
    tokens, types = _tokens(keys)
    make = _whole if WHOLE in metadata else _byte_level if kind == BYTE_LEVEL else _sentencepiece
    try:
        engine, begins = make(keys, tokens, types)
    except Exception as error:  # `tokenizers` raises bare Exception
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{path} holds a damaged tokenizer ({error}); download it again.") from error
    usual = _USUAL_IDS if kind == SENTENCEPIECE else {}
    ids = {key: keys.token_id(key, len(tokens), usual.get(key)) for key in {*ROLES.values(), *ENDS}}
    if WHOLE not in metadata:
        around = {name: ids[f"{name}_id"] for name in ("bos_token", "eos_token")}
        around = {name: tokens[index] for name, index in around.items() if index is not None}
        around["add_bos_token"] = keys.take("add_bos_token", bool, begins)
        around["add_eos_token"] = keys.take("add_eos_token", bool, False)
        classes.put_around(engine, classes.CLASSES["LlamaTokenizer"], around, path)
    named = {role: tokens[ids[key]] for role, key in ROLES.items() if ids[key] is not None}
    tokenizer = Tokenizer(engine, **{"start": "", **named})
    ends = [ids[key] for key in ENDS]
    ends += [index for index, token in enumerate(tokens) if types[index] == CONTROL and token in _END_NAMES]
    tokenizer.end_ids = list(dict.fromkeys(end for end in ends if end is not None)) or tokenizer.end_ids
    template = metadata.get("tokenizer.chat_template")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


class _Keys:
    """The keys of a tokenizer."""

    def __init__(self, metadata, path):
        self._metadata, self.path = metadata, path

    def take(self, name, kind, *default):
        """A value, of a type that it must have; where it is absent, the default, if there is one."""
        key = f"tokenizer.ggml.{name}"
        value = self._metadata.get(key, *default) if default else self._metadata.get(key)
        if value is None and not default:
            raise ValueError(f"{self.path} lacks the key {key!r}, without which its tokenizer cannot be made.")
        if key in self._metadata and not isinstance(value, kind):
            raise ValueError(f"{self.path} says {key}={value!r:.80} where there must be a {kind.__name__}.")
        return value

    def token_id(self, name, size, default):
        index = self.take(name, int, default)
        if index is not None and not 0 <= index < size:
            raise ValueError(f"{self.path} says tokenizer.ggml.{name}={index}, and it has {size} tokens.")
        return index

    @property
    def whole(self):
        return self._metadata[WHOLE]

    @property
    def architecture(self):
        return self._metadata.get("general.architecture")


def _tokens(keys):
    """The tokens and their types, without what stands for rows of the model's table that no token has."""
    tokens = keys.take("tokens", list)
    types = keys.take("token_type", list, [NORMAL] * len(tokens))
    if not tokens or len(types) != len(tokens) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(
            f"{keys.path} has {len(tokens)} tokens and {len(types)} types of tokens; each must be a text with a type."
        )
    count = len(tokens)
    while count > 1 and types[count - 1] == UNUSED and _PADDING.fullmatch(tokens[count - 1]):
        count -= 1
    return tokens[:count], types[:count]


def _byte_level(keys, tokens, types):
    """The engine of a byte-level vocabulary, and whether texts begin with the start token where nothing is said."""
    name = keys.take("pre", str, "default")
    words = next((row for row in WORDS if name in row.names), None)
    if words is None:
        known = ", ".join(name for row in WORDS for name in row.names)
        raise ValueError(f"{keys.path} finds words in the way {name!r}; kerasllm knows {known}.")
    merges = [tuple(merge.split(" ")) for merge in keys.take("merges", list, [])]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    engine = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=words.takes_whole))
    engine.pre_tokenizer = words.pre_tokenizer()
    engine.decoder = decoders.ByteLevel()
    kinds = {CONTROL: True, USER_DEFINED: False}
    engine.add_tokens(
        [
            AddedToken(token, normalized=False, special=kinds[kind])
            for token, kind in zip(tokens, types, strict=True)
            if kind in kinds
        ]
    )
    return engine, words.begins


def _whole(keys, tokens, types):
    """The engine of a tokenizer.json, which says itself what texts begin with."""
    engine = tokenizers.Tokenizer.from_str(keys.whole)
    if max(engine.get_vocab(with_added_tokens=True).values()) >= len(tokens):
        raise ValueError(f"{keys.path} has {len(tokens)} tokens, and more of them in {WHOLE}; download it again.")
    return engine, False


def _sentencepiece(keys, tokens, types):
    """The engine of a model of SentencePiece, and that texts begin with the start token where nothing is said."""
    scores = keys.take("scores", list)
    if len(scores) < len(tokens):
        raise ValueError(f"{keys.path} has {len(tokens)} tokens and {len(scores)} scores.")
    # llama.cpp looks for these in a text as it is, and SentencePiece once spaces are "▁".
    tokens = [t.replace(" ", "▁") if kind == USER_DEFINED else t for t, kind in zip(tokens, types, strict=True)]
    model = new_model()
    for token, score, kind in zip(tokens, scores, types, strict=False):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = BYTE in types
    model.normalizer_spec.add_dummy_prefix = keys.take("add_space_prefix", bool, True)
    model.normalizer_spec.remove_extra_whitespaces = keys.take("remove_extra_whitespaces", bool, False)
    engine = make_engine(model, tokens, settings={})
    return _without_spaces_behind(engine) if keys.architecture == "phi3" else engine, True


def _without_spaces_behind(engine):
    """Phi-3's engine, whose marks of turns take the white space behind them."""
    spec = json.loads(engine.to_str())
    for token in spec["added_tokens"]:
        token["rstrip"] = token["special"] and token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    return tokenizers.Tokenizer.from_str(json.dumps(spec))
