"""SentencePiece's model files, with the ids that a published model expects of their pieces.

`tokenizers` computes what SentencePiece does (Kudo and Richardson 2018, arXiv:1808.06226): unigram models as such, BPE
models with merges in the order of the pieces' scores. Where a file has rules for characters, a letter with several
combining marks can be read otherwise, as in the published tokenizer.json of such models.
"""

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from kerasllm.tokenizers import class_words, training
from kerasllm.tokenizers.older_formats.byte_level import read_vocabulary

_SPACE = "▁"
UNIGRAM, _BPE = 1, 2  # kinds of models
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # kinds of pieces
# Fairseq's first ids, which stand for the first three pieces of a file.
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
_MBART_LANGUAGES = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)


def read_plain(folder, settings, special=()):
    """Ids as in the file: Llama, Mistral."""
    model = read_model(folder / "tokenizer.model")
    return make_engine(model, [piece.piece for piece in model.pieces], settings, special)


def read_gemma(folder, settings):
    """The same, with the tokens of turns, which the file takes for text."""
    return read_plain(folder, settings, ("<start_of_turn>", "<end_of_turn>"))


def read_albert(folder, settings):
    """The file's ids, of texts without accents and in lower case."""
    model = read_model(folder / "spiece.model")
    engine = make_engine(model, [piece.piece for piece in model.pieces], settings)
    engine.normalizer = normalizers.Sequence([*class_words.albert_characters(settings), engine.normalizer])
    return engine


def read_t5(folder, settings):
    """The file's ids, then T5's sentinels, the first of which has the last id."""
    model = read_model(folder / "spiece.model")
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(settings.get("extra_ids", 100)))]
    return make_engine(model, [*(piece.piece for piece in model.pieces), *sentinels], settings, special=sentinels)


def read_deberta(folder, settings):
    """The file's ids, then the mask's."""
    for name in ("do_lower_case", "split_by_punct"):
        if settings.get(name):
            raise ValueError(
                f"{folder} asks for {name}={settings[name]!r} beside a model of SentencePiece, which kerasllm does not "
                "compute: have transformers save the tokenizer as tokenizer.json."
            )
    model = read_model(folder / "spm.model")
    tokens = list(dict.fromkeys([*(piece.piece for piece in model.pieces), "[MASK]"]))
    return make_engine(model, tokens, settings, special=("[PAD]", "[CLS]", "[SEP]", "[MASK]"))


def read_fairseq(folder, settings, languages=()):
    """Fairseq's ids: its special tokens, the file's pieces but the first three, languages, and the mask."""
    model = read_model(folder / "sentencepiece.bpe.model")
    last = [*languages, "<mask>"]
    tokens = [*_FAIRSEQ, *(piece.piece for piece in model.pieces[3:]), *last]
    return make_engine(model, tokens, settings, special=(*_FAIRSEQ, *last))


def read_mbart(folder, settings):
    return read_fairseq(folder, settings, _MBART_LANGUAGES.split())


def read_languages(folder, settings):
    """mBART-50 and NLLB: fairseq's ids, with the languages that the settings name."""
    return read_fairseq(folder, settings, _languages(folder, settings))


def read_m2m_100(folder, settings):
    """The ids of vocab.json, then the languages that the settings name."""
    tokens = [*tokens_in_order(folder / "vocab.json"), *(languages := _languages(folder, settings))]
    return make_engine(
        read_model(folder / "sentencepiece.bpe.model"), tokens, settings, special=(*_FAIRSEQ, *languages)
    )


def new_model():
    """An empty ModelProto.

    Raises:
        ImportError: where protobuf is older than sentencepiece's class, as beside packages that ask for that.
    """
    try:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except Exception as error:  # protobuf's own, which is not required under its name
        raise ImportError(
            f"SentencePiece's models are read by a newer protobuf than is installed here ({error}): pip install "
            "--upgrade protobuf, or load a tokenizer.json."
        ) from error
    return ModelProto()


def read_model(path):
    """The ModelProto in a file."""
    model = new_model()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own, which is not required under its name
        raise ValueError(f"{path} is not a whole model of SentencePiece ({error}); copy the folder again.") from error
    if not model.pieces or not model.HasField("trainer_spec") or not model.HasField("normalizer_spec"):
        raise ValueError(f"{path} is not a whole model of SentencePiece; copy the folder again.")
    if model.trainer_spec.model_type not in (UNIGRAM, _BPE) or model.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError(
            f"{path} is a model of SentencePiece that kerasllm does not compute; it computes unigram and BPE models "
            "whose words begin with their space."
        )
    return model


def tokens_in_order(path):
    """The tokens of a vocab.json, in the order of their ids."""
    vocabulary = sorted(read_vocabulary(path).items(), key=lambda item: item[1])
    for place, (token, index) in enumerate(vocabulary):
        if place != index:
            raise ValueError(f"{path} skips the id {place}, before {token!r}; copy the folder again.")
    return [token for token, _ in vocabulary]


def _languages(folder, settings):
    languages = settings.get("additional_special_tokens") or settings.get("extra_special_tokens")
    if not languages or not all(isinstance(language, str) for language in languages):
        raise ValueError(
            f"{folder} does not name the languages of its tokenizer: its special_tokens_map.json lacks "
            "'additional_special_tokens'."
        )
    return [language for language in languages if language != "<mask>"]


def make_engine(model, tokens, settings, special=()):
    """A `tokenizers.Tokenizer` that gives each of `tokens` its place in the list as id.

    Args:
        model: a ModelProto.
        tokens: list of str. Those that are pieces are found in texts.
        settings: dict.
        special: further tokens than those that the file says are.
    """
    pieces = {piece.piece: piece for piece in model.pieces}
    unknown = next((piece.piece for piece in model.pieces if piece.type == _UNKNOWN), "<unk>")
    if unknown not in tokens:
        raise ValueError(f"A model of SentencePiece is to be used without its unknown token {unknown!r}.")
    found = {token: pieces[token].score for token in tokens if token in pieces and pieces[token].type == _NORMAL}
    user_defined = {token for token in tokens if token in pieces and pieces[token].type == _USER_DEFINED} - {*special}
    if model.trainer_spec.model_type == UNIGRAM:
        scores = [(token, found.get(token, training.NEVER_CHOSEN)) for token in tokens]
        unigram = models.Unigram(scores, tokens.index(unknown), byte_fallback=model.trainer_spec.byte_fallback)
        engine = tokenizers.Tokenizer(unigram)
    else:
        bpe = models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges_of(found),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
        engine = tokenizers.Tokenizer(bpe)
    _set_spaces(engine, model.normalizer_spec, settings, is_split=not any(_SPACE in token[1:] for token in found))
    control = {piece.piece for piece in model.pieces if piece.type in (_UNKNOWN, _CONTROL)} | set(special)
    # User-defined pieces are looked for in the text as it is after normalization, and before anything else.
    is_normalized = not model.normalizer_spec.add_dummy_prefix
    added = [tokenizers.AddedToken(token, normalized=is_normalized) for token in user_defined]
    added += [tokenizers.AddedToken(token, normalized=False, special=True) for token in control.intersection(tokens)]
    engine.add_tokens(sorted(added, key=lambda token: engine.token_to_id(token.content)))
    return engine


def merges_of(scores):
    """The merges of a BPE model of SentencePiece: any two pieces that make a third, those of the best score first."""
    ranked = []
    for place, (piece, score) in enumerate(scores.items()):
        for cut in range(1, len(piece)):
            if piece[:cut] in scores and piece[cut:] in scores:
                ranked.append((-score, place, cut, piece))
    return [(piece[:cut], piece[cut:]) for *_, cut, piece in sorted(ranked)]


def _set_spaces(engine, spec, settings, is_split):
    """Normalizer, pre-tokenizer and decoder of an engine, as a NormalizerSpec has them.

    Args:
        engine: `tokenizers.Tokenizer`.
        spec: NormalizerSpec.
        settings: dict. Where "legacy" is False, only the text's beginning gets a space, and what stands behind special
            tokens does not.
        is_split: bool, whether no piece reaches from one word into the next.
    """
    has_prefix, only_first = spec.add_dummy_prefix, settings.get("legacy") is False
    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:  # spaces alone: others are no white space to SentencePiece
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if has_prefix and not only_first:
        steps.append(normalizers.Prepend(_SPACE))
    engine.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    if is_split or (has_prefix and only_first):
        scheme = "first" if has_prefix and only_first else "never"
        engine.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=is_split)
    decoder = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    engine.decoder = decoders.Sequence([*decoder, decoders.Strip(" ", 1, 0)] if has_prefix else decoder)
