"""Making vocabularies: byte-level BPE, WordPiece, unigram, characters and bytes.

Each function here returns a `tokenizers.Tokenizer`, which `Tokenizer.train` wraps. Ids 0, 1 and 2 are padding, start
and end; the caller's special tokens follow, then the vocabulary proper.
"""

import json
import re
from contextlib import contextmanager

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kerasllm.progress import progress_bar
from kerasllm.tokenizers.encoding import checked
from kerasllm.tokenizers.word_splitting import (
    BETWEEN_WORDS,
    PIECE_LENGTH,
    bpe_pre_tokenizer,
    pieces,
    unigram_words,
    wordpiece_words,
)

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
UNKNOWN = "\N{REPLACEMENT CHARACTER}"

SAMPLE_BYTES = 32 * 2**20
NEVER_CHOSEN = -1e9  # A unigram score below that of any text.
# Unigram scores are multiples of this, and words so short (MAX_UNIGRAM_WORD_LENGTH), that sums of scores are exact in
# 32 bits as in 64: of segmentations that are equally likely, every program then takes the same.
SCORE_STEP = 2**-10


def train(texts, kind, vocab_size, special_tokens, sample_bytes, progress):
    """An engine of any kind, as `Tokenizer.train` says.

    Raises:
        ValueError: for an unknown kind.
    """
    learners = {"bpe": train_bpe, "wordpiece": train_wordpiece, "unigram": train_unigram}
    if kind in learners:
        return learners[kind](texts, vocab_size, special_tokens, sample_bytes, progress)
    if kind == "char":
        return train_char(texts, vocab_size, special_tokens, progress)
    if kind == "byte":
        return make_byte(vocab_size, special_tokens)
    raise ValueError(f"Unknown kind of tokenizer {kind!r}. Known: 'bpe', 'wordpiece', 'unigram', 'char', 'byte'.")


def train_bpe(texts, vocab_size, special_tokens, sample_bytes, progress):
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019, "GPT-2")."""
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size={vocab_size} is too small for kind='bpe': 256 bytes and {len(special_tokens)} special tokens "
            f"need at least {least}."
        )
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = bpe_pre_tokenizer()
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _learn(engine, trainer, texts, sample_bytes, progress)


def train_wordpiece(texts, vocab_size, special_tokens, sample_bytes, progress):
    """WordPiece (Schuster and Nakajima 2012) over BERT's words (Devlin et al. 2019, arXiv:1810.04805), cased."""
    engine = tokenizers.Tokenizer(models.WordPiece(vocab={UNKNOWN: 0}, unk_token=UNKNOWN))
    engine.normalizer, engine.pre_tokenizer = wordpiece_words()
    engine.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[*special_tokens, UNKNOWN], show_progress=False
    )
    engine = _with_plain_unknown(_learn(engine, trainer, texts, sample_bytes, progress))
    if engine.get_vocab_size() > vocab_size:
        raise ValueError(_too_few_ids("wordpiece", vocab_size, f"needs at least {engine.get_vocab_size()}"))
    return engine


def train_unigram(texts, vocab_size, special_tokens, sample_bytes, progress):
    """The unigram language model of SentencePiece (Kudo 2018, arXiv:1804.10959)."""
    engine = tokenizers.Tokenizer(models.Unigram())
    _, engine.pre_tokenizer = unigram_words()
    engine.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special_tokens, UNKNOWN],
        unk_token=UNKNOWN,
        initial_alphabet=sorted(set("".join(special_tokens))),  # so that they can be read as text
        show_progress=False,
    )
    try:
        engine = _with_round_scores(_with_plain_unknown(_learn(engine, trainer, texts, sample_bytes, progress)))
    except Exception as error:  # the library raises bare Exception
        if "not large enough" not in str(error):
            raise
        raise ValueError(_too_few_ids("unigram", vocab_size, "needs one for every character")) from error
    if engine.get_vocab_size() > vocab_size:
        raise ValueError(_too_few_ids("unigram", vocab_size, f"needs at least {engine.get_vocab_size()}"))
    return engine


def train_char(texts, vocab_size, special_tokens, progress):
    """One id for every character of `texts`, in code point order."""
    characters = set()
    with _tracking(progress) as track:
        for text in track(texts, "reading text"):
            characters.update(text)
    characters.discard(UNKNOWN)
    if not characters:
        raise ValueError("There is no text to train a tokenizer on: every document was empty.")
    vocabulary = [*special_tokens, UNKNOWN, *sorted(characters)]
    if vocab_size < len(vocabulary):
        raise ValueError(
            f"vocab_size={vocab_size} is too small for kind='char': the text has {len(characters)} different "
            f"characters, which take {len(vocabulary)} ids with the special tokens. Raise it, or use kind='bpe'."
        )
    engine = _alphabet(vocabulary, special_tokens, unk_token=UNKNOWN)
    engine.decoder = decoders.Fuse()
    return engine


def make_byte(vocab_size, special_tokens):
    """One id for each of the 256 bytes, in order. Nothing is learned."""
    vocabulary = [*special_tokens, *byte_characters()]
    if vocab_size < len(vocabulary):
        raise ValueError(
            f"vocab_size={vocab_size} is too small for kind='byte', which has {len(vocabulary)} ids: 256 bytes and "
            f"{len(special_tokens)} special tokens."
        )
    engine = _alphabet(vocabulary, special_tokens)
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    return engine


def without_special_pieces(engine):
    """An engine whose unigram model never finds a special token or that of a byte in a text, whatever their scores."""
    spec = json.loads(engine.to_str())
    if spec["model"]["type"] != "Unigram":
        return engine
    special = {token["content"] for token in spec["added_tokens"] if token["special"]}
    if spec["model"]["byte_fallback"]:
        special |= {f"<0x{byte:02X}>" for byte in range(256)}
    for piece in spec["model"]["vocab"]:
        if piece[0] in special:
            piece[1] = NEVER_CHOSEN
    # Where characters of it are unknown, the whole would still be likelier than they are: T5 has no "<".
    known = {piece for piece, _ in spec["model"]["vocab"]} - special
    unreadable = sorted(token for token in special if len(token) > 1 and not known.issuperset(token))
    if unreadable:
        between = "|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in unreadable)
        split = {"type": "Split", "pattern": {"Regex": between}, "behavior": "Isolated", "invert": False}
        steps = _steps(spec["pre_tokenizer"])
        if split not in steps:
            spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, split]}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def check_special_tokens(special_tokens):
    """Raises ValueError for tokens that are given twice, or that merges could make of ordinary text."""
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"Special tokens must be different, got {list(special_tokens)}.")
    for token in special_tokens:
        if len(bpe_pre_tokenizer().pre_tokenize_str(token)) < 2:
            raise ValueError(f"The special token {token!r} could be a word of the text: mark it, as in '<|{token}|>'.")


def _learn(engine, trainer, texts, sample_bytes, progress):
    with _tracking(progress) as track:
        sample = _sample(track(texts, "reading text"), sample_bytes)
        if not sample:
            raise ValueError("There is no text to train a tokenizer on: every document was empty.")
        engine.train_from_iterator(track(sample, "learning the vocabulary", total=sum(map(len, sample))), trainer)
    return engine


def _with_plain_unknown(engine):
    """An engine whose unknown token is no special one: what could not be read shows when it is decoded."""
    spec = json.loads(engine.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] != UNKNOWN]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _with_round_scores(engine):
    spec = json.loads(engine.to_str())
    spec["model"]["vocab"] = [
        [piece, round(score / SCORE_STEP) * SCORE_STEP] for piece, score in spec["model"]["vocab"]
    ]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _too_few_ids(kind, vocab_size, what):
    return (
        f"vocab_size={vocab_size} is too small for kind={kind!r}, which {what} for this text. Raise it, or use "
        "kind='bpe', which takes any text with 256 bytes."
    )


def _sample(texts, limit):
    """Every k-th piece of the text, with k the smallest power of two for which they fit into `limit` bytes."""
    kept, size, step = [], 0, 1
    every = (piece for text in texts for piece in pieces(text, BETWEEN_WORDS) if piece)
    for index, piece in enumerate(every):
        if index % step:
            continue
        kept.append(piece)
        size += len(piece.encode())
        while size > limit and len(kept) > 1:
            kept, step = kept[::2], 2 * step
            size = sum(len(piece.encode()) for piece in kept)
    return kept


def _steps(pre_tokenizer):
    """The steps of a pre-tokenizer in a tokenizer.json."""
    if pre_tokenizer is None:
        return []
    return pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]


def _alphabet(vocabulary, special_tokens, **options):
    """A vocabulary of single characters. BPE without merges looks each one up, many times faster than WordLevel."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    engine = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[], **options))
    engine.add_special_tokens(list(special_tokens))
    return engine


def byte_characters():
    """The character that stands for each byte in byte-level vocabularies: itself where printable, as in GPT-2."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@contextmanager
def _tracking(show):
    """Yields track(texts, description, total=None), which passes texts on and shows the characters seen."""
    with progress_bar(show) as bar:

        def track(texts, description, total=None):
            task, unseen = bar.add_task(description, total=total, unit="characters"), 0
            for text in texts:
                yield checked(text)
                unseen += len(text)
                if unseen >= PIECE_LENGTH:  # each call costs more than a short document
                    bar.advance(task, unseen)
                    unseen = 0
            bar.advance(task, unseen)

        yield track
