"""The two sides of a sequence-to-sequence model: one tokenizer for both, or one for each."""

from pathlib import Path
from typing import NamedTuple

from kerasllm.tokenizers.conversion import as_tokenizer
from kerasllm.tokenizers.tokenizer import Tokenizer

SOURCE = "source"  # The folder of the sources' tokenizer, beside the files of the targets'.


def as_pair(tokenizer):
    """The tokenizers of sources and targets: one is both, a pair is (source, target); each as `as_tokenizer` takes it.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(tokenizer, tuple | list):
        tokenizer = as_tokenizer(tokenizer)
        pair = tokenizer, tokenizer
    else:
        pair = tuple(map(as_tokenizer, tokenizer))
    if len(pair) != 2 or not all(isinstance(side, Tokenizer) for side in pair):
        raise TypeError(f"tokenizer must be a Tokenizer or a pair of them, (source, target); got {tokenizer!r:.80}.")
    return pair


def save_tokenizer(tokenizer, folder):
    """Writes a `Tokenizer`, or the pair (source, target), into a folder.

    Args:
        tokenizer: the `Tokenizer`, or the pair.
        folder: path of a folder: the files of the targets' tokenizer go there, those of another one for the sources
            into a folder in it.
    """
    source, target = as_pair(tokenizer)
    target.save(folder)
    if source is not target:
        source.save(Path(folder) / SOURCE)


def load_tokenizer(folder):
    """Reads what `save_tokenizer` wrote, or the tokenizers of a folder in Hugging Face's formats, two where it is
    Marian's."""
    if (Path(folder) / "source.spm").is_file() and not (Path(folder) / "tokenizer.json").is_file():
        return Tokenizer.load(Path(folder) / "source.spm"), Tokenizer.load(Path(folder) / "target.spm")
    target, source = Tokenizer.load(folder), Path(folder) / SOURCE
    return (Tokenizer.load(source), target) if source.is_dir() else target


class Sides(NamedTuple):
    """Tokenizers of the texts that a model reads and of those that it writes.

    Sources end with the end token; a tokenizer that puts one behind every text itself may put more around it. Targets
    stand between the start and the end token; where a tokenizer has no start token they begin with padding, as T5's do.
    """

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def of(cls, tokenizer):
        """From a `Tokenizer` for both sides, or a pair of them (source, target).

        Raises:
            TypeError: for anything else.
            ValueError: where a side lacks an end token, or the targets something to begin with.
        """
        sides = cls(*as_pair(tokenizer))
        if sides.source.end_id is None or sides.target.end_id is None:
            raise ValueError("Texts of a sequence-to-sequence model end with an end token, which this tokenizer lacks.")
        if sides.start_id is None:
            raise ValueError("Targets begin with a start token or with padding; this tokenizer has neither.")
        return sides

    @property
    def start_id(self):
        """What a target begins with."""
        return self.target.pad_id if self.target.start_id is None else self.target.start_id

    @property
    def end_id(self):
        """What a target ends with."""
        return self.target.end_id

    @property
    def pad_id(self):
        """What fills up shorter sources and targets; 0 where the tokenizer names nothing."""
        return self.target.pad_id or 0

    @property
    def ends_sources(self):
        """Whether the sources' tokenizer itself puts an end token behind every text, as published ones do."""
        return self.source.end_id in self.source.encode("")

    def encode_sources(self, texts):
        """Yields the ids of each text, with the end token."""
        end = [] if self.ends_sources else [self.source.end_id]
        for ids in self.source.encode_stream(texts, bare=bool(end)):
            yield [*ids.tolist(), *end]

    def encode_targets(self, texts, decoder_start_id=None, forced_bos_id=None):
        """Yields the ids of each text, between the start and the end token; a model may begin otherwise, and go on with
        a token of its own (see `models.TransformerConfig`)."""
        begin = [self.start_id if decoder_start_id is None else decoder_start_id]
        begin += [] if forced_bos_id is None else [forced_bos_id]
        for ids in self.target.encode_stream(texts, bare=True):
            yield [*begin, *ids.tolist(), self.end_id]
