"""What the tokens of a tokenizer write, and what is made of that once and kept with it."""

import json
import re
import threading

from kerasllm.tokenizers.spellings import KINDS, Spellings, spellings

_MOST_KEPT = 64  # tables of a tokenizer
_one_at_a_time = threading.RLock()


def check_ends(end_ids, kind):
    """Refuses texts that cannot end."""
    if not end_ids:
        raise ValueError(f"`{kind}` needs a token that ends a text, and the tokenizer has none: see its `end_ids`.")


def token_bytes(tokenizer):
    """What each token writes behind others and as the first of a text, two lists of bytes; None for what writes
    nothing or is unknown."""
    return kept(tokenizer, "bytes", lambda: _token_bytes(tokenizer))


def _token_bytes(tokenizer):
    spec = json.loads(tokenizer.engine.to_str())
    found = spellings(tokenizer.engine, spec, tokenizer.vocab_size)
    if not isinstance(found, Spellings):
        raise ValueError(
            f"What this tokenizer's tokens write is not known, as its decoder is {found!r}, and not one of {KINDS}."
        )
    written = found.known - {tokenizer.unknown_id}
    strip = re.compile(b"^ {0,%d}" % found.strips)
    later = [token if token and index in written else None for index, token in enumerate(found.later)]
    first = [strip.sub(b"", token) if later[index] is not None else None for index, token in enumerate(found.first)]
    return later, first


def kept(tokenizer, key, make):
    """What was made for a tokenizer before, or is now."""
    known = vars(tokenizer).setdefault("_constraints", {})
    with _one_at_a_time:
        value = known.pop(key) if key in known else make()
        while len(known) >= _MOST_KEPT:
            del known[next(iter(known))]
        known[key] = value  # behind all others
        return value
