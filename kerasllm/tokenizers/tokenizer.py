"""The tokenizer: a thin class over Hugging Face `tokenizers`, whose Rust threads do the work.

How vocabularies are made is in training.py, how folders are read and written in reading.py and writing.py.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from kerasllm.files import check_documents
from kerasllm.tokenizers import masks, training
from kerasllm.tokenizers.answers import encode_with_mask
from kerasllm.tokenizers.chat_template import encode_chat
from kerasllm.tokenizers.encoding import checked, checked_ids, encode_stream
from kerasllm.tokenizers.reading import read_folder
from kerasllm.tokenizers.token_roles import end_ids_in, find_token, roles_in
from kerasllm.tokenizers.word_splitting import cut_places
from kerasllm.tokenizers.writing import write_folder


class Tokenizer:
    """Turns text into token ids and back.

    Make one with `Tokenizer.train` or `Tokenizer.load`. Special tokens that occur in a text are text: only
    `parse_special=True` reads them as tokens.

    Args:
        engine: a `tokenizers.Tokenizer`, which is kept as `engine`.
        pad, start, end, mask: str or None, the tokens for padding, start and end of a document, and a hidden token; an
            empty str for none. By default those of the usual names that the vocabulary has.

    Attributes:
        vocab_size: int, one more than the largest id.
        pad_id, start_id, end_id, mask_id: int or None.
        special_tokens: dict from "pad", "start", "end" and "mask" to the token (str) or None.
        end_ids: list of int, the ids at which generated text ends: the end token's, and others where a model has them,
            for the end of a turn in a chat. May be set.
        chat_template: str or None, the Jinja2 template that makes a text of a chat's messages. May be set.

    Raises:
        ValueError: where a named token is not in the vocabulary.

    Example:

    >>> tokenizer = Tokenizer.train(["the cat", "the dog"], vocab_size=300, progress=False)
    >>> tokenizer.decode(tokenizer.encode("the cat's hat"))
    "the cat's hat"
    """

    def __init__(self, engine, *, pad=None, start=None, end=None, mask=None):
        engine = training.without_special_pieces(engine)
        engine.encode_special_tokens = True  # not kept in JSON files
        engine.no_truncation()
        engine.no_padding()
        self.engine = engine
        self.vocab_size = 1 + max(engine.get_vocab(with_added_tokens=True).values())
        named = {"pad": pad, "start": start, "end": end, "mask": mask}
        self.special_tokens = {role: find_token(engine, role, token) for role, token in named.items()}
        self.pad_id, self.start_id, self.end_id, self.mask_id = (
            None if token is None else engine.token_to_id(token) for token in self.special_tokens.values()
        )
        self.end_ids = [] if self.end_id is None else [self.end_id]
        self.chat_template = None

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 8000,
        kind: str = "bpe",
        *,
        special_tokens: Iterable[str] = (),
        sample_bytes: int = training.SAMPLE_BYTES,
        progress: bool = True,
    ) -> "Tokenizer":
        """Makes a vocabulary from documents.

        Args:
            texts: iterable of str, read once and never held. With kind="byte" it is not read.
            vocab_size: int, the most ids there may be, special tokens included. There are fewer where the text is too
                short to fill it; characters and bytes take only what they need.
            kind: "bpe", "wordpiece", "unigram", "char" or "byte".

                - "bpe" is byte-level: every text can be encoded, and decodes to itself. Words are found by
                  `word_splitting.SPLIT_PATTERN`, which needs no look-ahead, so that TensorFlow's regular expressions
                  can run it too, and are cut every `word_splitting.MAX_WORD_LENGTH` (32) characters, so that time is
                  linear in the text. A pair of tokens is merged where it occurs at least twice.
                - "wordpiece" is BERT's: words are split from white space, signs and Chinese characters, and white space
                  is not kept. A word with an unknown character becomes one unknown token, which decodes to U+FFFD.
                - "unigram" is SentencePiece's: the likeliest pieces of each word, spaces kept as "▁"; a text decodes to
                  itself but for a space at its beginning. Unknown characters become the unknown token.
                - "char" has every character of `texts`. Others become one unknown token, which decodes to U+FFFD.
                - "byte" has the 256 bytes.
            special_tokens: further special tokens (str), after padding (id 0), start (1) and end (2): "<|mask|>" for a
                masked language model.
            sample_bytes: int, how much text is learned from, 32 MiB by default. Of more it takes an even sample: the
                text is cut into documents, long ones into pieces of about 16,000 characters, and every k-th is taken, k
                being the smallest power of two for which they fit. Characters are collected from all of the text.
            progress: bool, whether to show a progress bar (on standard error).

        Returns:
            A `Tokenizer`.

        Raises:
            TypeError: where a document is not a str.
            ValueError: for an unknown kind, a vocab_size that the kind cannot meet, a special token that is given twice
                or could be a word of the text, or no text at all.
        """
        special_tokens = (training.PAD, training.START, training.END, *special_tokens)
        training.check_special_tokens(special_tokens)
        check_documents("texts", texts)
        if sample_bytes < 1:
            raise ValueError(f"sample_bytes must be at least 1, got {sample_bytes}.")
        return cls(training.train(texts, kind, vocab_size, special_tokens, sample_bytes, progress))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads a tokenizer, ours or any in Hugging Face's formats.

        Args:
            path: a folder with a tokenizer.json, or such a file; or a folder with files of before its time, which
                `older_formats` converts (vocab.json and merges.txt, vocab.txt, models of SentencePiece). Where
                tokenizer_config.json beside a tokenizer.json says otherwise, ids are those of transformers'
                AutoTokenizer; `classes` says how. Padding, start, end and mask, further tokens and the chat template
                are taken from tokenizer_config.json, special_tokens_map.json and added_tokens.json, or else from the
                usual names, such as <|endoftext|>, </s> or [SEP]. What the tokenizer's post-processor adds, `encode`
                adds. Truncation and padding set in the file are switched off.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where a file is damaged, or of a kind that cannot be converted.
        """
        path = Path(path)
        engine, settings = read_folder(path)
        tokenizer = cls(engine, **roles_in(settings, engine))
        tokenizer.end_ids = end_ids_in(settings, tokenizer, path)
        tokenizer.chat_template = settings.get("chat_template")
        return tokenizer

    @cached_property
    def unknown_id(self):
        """The id of what the vocabulary lacks, an int; None where it lacks nothing, as with bytes."""
        model = json.loads(self.engine.to_str())["model"]
        if model.get("unk_token") is not None:
            return self.engine.token_to_id(model["unk_token"])
        return model.get("unk_id")

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json (Hugging Face's format) and tokenizer_config.json (padding, start, end, mask and the
        chat template) into a folder.

        Args:
            folder: is made if need be.

        Raises:
            FileExistsError: where the folder already holds a tokenizer. Nothing is overwritten.
        """
        write_folder(self, Path(folder))

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """The token ids of a text.

        Args:
            text: str.
            parse_special: bool, whether special tokens in the text are read as such. By default they are text.

        Returns:
            A list of int.

        Raises:
            TypeError: where `text` is not a str.
            ValueError: where it holds lone surrogates, which are no characters.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes str, got {type(text).__name__}; encode_batch(texts) takes many.")
        return self.encode_batch([text], parse_special)[0]

    def encode_masked(self, text: str) -> list[int]:
        """The token ids of a text with masks: the mask token is read where the text has it; others are text.

        Where words and the spaces before them share a token, a mask stands for both.

        Args:
            text: str.

        Returns:
            A list of int.

        Raises:
            ValueError: where the tokenizer has no mask token.

        Example:

        >>> tokenizer = Tokenizer.train(["the cat"], vocab_size=300, special_tokens=["<|mask|>"], progress=False)
        >>> tokenizer.decode(tokenizer.encode_masked("the <|mask|>!"), skip_special=False)
        'the <|mask|>!'
        """
        masks.require_mask(self)
        return self._read_masked(checked(text))

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        expand: Callable[[str], str] | None = None,
        **variables: Any,
    ) -> list[int]:
        """The token ids of a chat, as its template writes it. Special tokens in messages are text.

        Args:
            messages: list of dicts with a "role" and a "content" (str), and what else the template reads.
            chat_template: str or None, a template in place of the tokenizer's own, in Jinja2's language as transformers
                reads it. It runs in a sandbox.
            expand: function (str) -> str or None, of what the template writes, in which special tokens are its own:
                such as `ImageTokens.expand` for the images of a chat.
            **variables:
                add_generation_prompt: bool, whether the chat ends with what stands before an answer, as it does by
                    default.
                continue_final_message: bool. Leave the last message open instead, for a model to go on with.
                tools: list of Python functions, described as `tool_schemas.tool_schema` says, or of JSON schemas.
                documents and whatever else the template takes.

        Returns:
            A list of int.

        Raises:
            TypeError: where `messages` is something else.
            ValueError: where there is no template, or it refuses the messages; the message says why.

        Example:

        >>> tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
        >>> tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
        >>> ids = tokenizer.encode_chat([{"role": "user", "content": "to be"}])
        >>> tokenizer.decode(ids, skip_special=False)
        'to be<|endoftext|>'
        """
        return encode_chat(self, messages, chat_template, expand, **variables)

    def encode_chat_with_mask(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        expand: Callable[[str], str] | None = None,
        **variables: Any,
    ) -> tuple[list[int], list[bool]]:
        """The token ids of a chat that has been answered, and which of them a model is to learn: the assistant's turns.

        A turn begins behind what `encode_chat` gives for the messages before it, which a model is to go on with, and
        ends with the special token that the template puts behind it. A template that marks answers with
        `{% generation %}` tells where they begin and end, but the token that ends the turn counts in any case. The mask
        of such a template is that of transformers' `return_assistant_tokens_mask`.

        Args:
            messages, chat_template, expand: as in `encode_chat`. Each message whose role is "assistant" is an answer.
            **variables: what else the template takes, such as tools.

        Returns:
            A list of int, as `encode_chat` with add_generation_prompt=False gives it, and a list of as many bools.

        Raises:
            TypeError: where `messages` is something else.
            ValueError: as `encode_chat`; and where the answers cannot be found in what the template writes.

        Example:

        >>> tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
        >>> tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
        >>> chat = [{"role": "user", "content": "to be"}, {"role": "assistant", "content": "or not"}]
        >>> ids, mask = tokenizer.encode_chat_with_mask(chat)
        >>> tokenizer.decode(np.array(ids)[mask], skip_special=False)
        'or not<|endoftext|>'
        """
        return encode_with_mask(self, messages, chat_template, expand, **variables)

    def encode_batch(self, texts: Iterable[str], parse_special: bool = False) -> list[list[int]]:
        """The token ids of many texts, in parallel and in bounded memory; long ones are cut where no word is hurt.

        Args:
            texts: iterable of str.
            parse_special: as in `encode`.

        Returns:
            A list of lists of int.
        """
        return [ids.tolist() for ids in self.encode_stream(texts, parse_special)]

    def encode_stream(self, texts, parse_special=False, bare=False):
        """As `encode_batch`, but yields an int32 array for each text: for corpora that do not fit into memory.

        With `bare`, what the tokenizer's post-processor puts around a text is left out.
        """
        engine = self._parsing_engine if parse_special else self.engine
        return encode_stream(engine, texts, None if parse_special else self._cut_places, bare)

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:
        """The text of token ids, as the tokenizer's own decoder writes it.

        That of WordPiece puts no space before signs such as "." and "'s". The setting `clean_up_tokenization_spaces`,
        which asks for as much of others, is not heeded.

        Args:
            ids: int list or 1-D array. Bytes that are no UTF-8 become U+FFFD.
            skip_special: bool, whether special tokens are left out of the text.

        Returns:
            str.

        Raises:
            ValueError: for ids outside of 0 … vocab_size - 1.
        """
        ids = checked_ids(ids, self.vocab_size)
        return self.engine.decode(ids, skip_special_tokens=skip_special) if ids else ""

    def fingerprint(self):
        """A hash (64 hexadecimal digits) of all that decides ids: equal tokenizers have equal fingerprints."""
        return self._fingerprint

    def __len__(self):
        return self.vocab_size

    def __repr__(self):
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, pad_id={self.pad_id}, "
            f"start_id={self.start_id}, end_id={self.end_id})"
        )

    @cached_property
    def _fingerprint(self):
        tokens = {role: token for role, token in self.special_tokens.items() if role != "mask"}  # it decides no ids
        described = {"engine": json.loads(self.engine.to_str()), "tokens": tokens}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _parsing_engine(self):
        return tokenizers.Tokenizer.from_str(self.engine.to_str())

    @cached_property
    def _read_masked(self):
        return masks.mask_reader(self.engine, self.special_tokens["mask"])

    @cached_property
    def _cut_places(self):
        return cut_places(self.engine)
