"""Marian's tokenizers: two unigram models of SentencePiece, one for each side, and the ids of their pieces."""

import base64
import json

import tokenizers

from kerasllm.files import write_json
from kerasllm.tokenizers import training
from kerasllm.tokenizers.older_formats import sentencepiece_models

_SPECIAL = ("</s>", "<unk>", "<pad>")


def read_marian(folder, settings, name="source.spm"):
    """The ids of vocab.json, or of target_vocab.json where a model has one for its targets.

    A target language, such as ">>fra<<", is a token in the text. Pieces that have no id are not used.
    """
    own = folder / "target_vocab.json"
    path = own if name == "target.spm" and own.is_file() else folder / "vocab.json"
    tokens = sentencepiece_models.tokens_in_order(path)
    model = sentencepiece_models.read_model(folder / name)
    engine = sentencepiece_models.make_engine(model, tokens, settings, special=_SPECIAL)
    codes = [token for token in tokens if token.startswith(">>") and token.endswith("<<")]
    engine.add_tokens([tokenizers.AddedToken(code, normalized=False) for code in codes])
    return engine


def write_marian(source, target, folder):
    """Writes two engines that `read_marian` made into a folder, as it and transformers read them.

    Args:
        source, target: `tokenizers.Tokenizer`s.
        folder: `Path`.

    Raises:
        ValueError: where they are of another kind.
    """
    for name, engine in (("source.spm", source), ("target.spm", target)):
        (folder / name).write_bytes(_as_model(json.loads(engine.to_str())).SerializeToString())
    write_json(folder / "vocab.json", source.get_vocab())
    is_shared = source.get_vocab() == target.get_vocab()
    if not is_shared:
        write_json(folder / "target_vocab.json", target.get_vocab())
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "MarianTokenizer", **names, "separate_vocabs": not is_shared}
    write_json(folder / "tokenizer_config.json", settings)


def _as_model(spec):
    """The ModelProto of a unigram model in a tokenizer.json."""
    steps = (spec["normalizer"] or {}).get("normalizers", [])
    if spec["model"]["type"] != "Unigram" or {"type": "Prepend", "prepend": "▁"} not in steps:
        raise ValueError(
            "Hugging Face's format has room for one tokenizer, or for Marian's pair of SentencePiece models; got one "
            "for sources and one for targets of another kind."
        )
    model = sentencepiece_models.new_model()
    model.trainer_spec.model_type = sentencepiece_models.UNIGRAM
    model.trainer_spec.unk_id, model.trainer_spec.eos_id = 0, 1
    model.trainer_spec.bos_id = model.trainer_spec.pad_id = -1
    kind = model.SentencePiece
    model.pieces.add(piece="<unk>", score=0, type=kind.UNKNOWN)
    model.pieces.add(piece="</s>", score=0, type=kind.CONTROL)
    for piece, score in spec["model"]["vocab"]:
        if score > training.NEVER_CHOSEN:
            model.pieces.add(piece=piece, score=score, type=kind.NORMAL)
    charsmaps = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    model.normalizer_spec.precompiled_charsmap = base64.b64decode(charsmaps[0]) if charsmaps else b""
    model.normalizer_spec.remove_extra_whitespaces = any(step.get("pattern") == {"Regex": " {2,}"} for step in steps)
    return model
