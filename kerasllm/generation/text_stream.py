"""Ids to text as they come: each is decoded once, and shown as soon as nothing can change it any more."""

import re

from kerasllm.generation.prompts import as_text

BROKEN = "\ufffd"  # what bytes become that are no whole letter
# A byte of a letter that the vocabulary lacks, in SentencePiece's way. A run of them is letters or broken as a whole.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class TextStream:
    """The continuation of one prompt, up to a stop string.

    Args:
        tokenizer: Tokenizer.
        prompt_ids: list of int.
        stop: list of str, from `stop_strings`.
        held_back: `HeldBack`, through which the text leaves, or None.

    Attributes:
        stopped: bool, whether the text has ended: before a stop string, or where it was refused.
        opening: str, what is to be shown before anything is read.
    """

    def __init__(self, tokenizer, prompt_ids, stop, held_back=None):
        self.stopped = held_back is not None and held_back.refused
        self.opening = "" if held_back is None else held_back.opening
        self._held_back = held_back
        self._tokenizer, self._stop = tokenizer, stop
        self._before = list(prompt_ids)  # ids that what is decoded next stands behind
        self._seen = 0  # of all new ids, how many have been looked at,
        self._whole = 0  # how many stand before a run of byte tokens that may still grow,
        self._decoded = 0  # and how many are decoded for good
        self._taken = 0  # letters taken of the text of ids that are not: of letters that are whole
        self._held = ""  # what may become a stop string

    def read(self, new_ids, is_last):
        """The text that is new and that nothing can change any more.

        Args:
            new_ids: list of int, all new ids so far.
            is_last: bool. No more will come.
        """
        if self.stopped:
            return ""
        text = self._read(new_ids, is_last)
        if self._held_back is not None:
            text = self._held_back.read(text, is_last or self.stopped)
            self.stopped = self.stopped or self._held_back.refused
        return text

    def _read(self, new_ids, is_last):
        """The text that is new, up to a stop string."""
        text = self._held + self._letters(new_ids, is_last)
        place = _stop_place(text, self._stop)
        self.stopped = place is not None
        end = place if self.stopped or is_last else len(text) - _length_of_beginning(self._stop, text)
        self._held = text[end:] if end is not None else ""
        return text[:end]

    def _letters(self, new_ids, is_last):
        """Whole letters that were not there before; all that is left, where `is_last`."""
        for place in range(self._seen, len(new_ids)):
            if not _BYTE_TOKEN.fullmatch(self._tokenizer.engine.id_to_token(new_ids[place]) or ""):
                self._whole = place + 1
        self._seen = len(new_ids)
        ids = new_ids[self._decoded : len(new_ids) if is_last else self._whole]
        text = continuation(self._tokenizer, self._before, ids) if ids else ""
        letters = text if is_last else text.rstrip(BROKEN)
        fresh = letters[self._taken :]
        if letters and letters == text:
            # What follows begins a letter of its own, so that it is enough to know one token before it.
            self._before = ids[-1:] if self._tokenizer.decode(ids[-1:]) else ids
            self._decoded, self._taken = self._decoded + len(ids), 0
        else:
            self._taken += len(fresh)
        return fresh


def continuation(tokenizer, prompt_ids, new_ids):
    """The text of new ids where they stand: some tokenizers drop a space at the beginning of a text."""
    before = tokenizer.decode(prompt_ids)
    text = tokenizer.decode(prompt_ids + new_ids)
    for known in (before, before.rstrip(BROKEN)):  # A prompt of ids may end within a letter.
        if text.startswith(known):
            return text[len(known) :]
    return tokenizer.decode(new_ids)


def stop_strings(stop):
    """A list of what ends a text, from what a user gives."""
    one = as_text(stop)
    strings = [one] if one is not None else [as_text(string) for string in ([] if stop is None else stop)]
    if not all(strings):
        raise ValueError(f"`stop` must be a non-empty str or a list of them (`end_ids` takes ids), got {stop!r}.")
    return strings


def _stop_place(text, stop):
    """Where the stop string begins that is complete first, and of several that end together the longest; or None."""
    found = [(place + len(string), place) for string in stop if (place := text.find(string)) >= 0]
    return min(found)[1] if found else None


def _length_of_beginning(stop, text):
    """How much of the end of a text may become a stop string."""
    return max((n for string in stop for n in range(1, len(string)) if text.endswith(string[:n])), default=0)
