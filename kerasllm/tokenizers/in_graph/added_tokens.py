"""Added tokens that are no special ones: wherever a text has them, they are tokens."""

import tensorflow as tf

from kerasllm.tokenizers.in_graph.refusal import refuse

_CUT = b"\xff"  # stands in no UTF-8


class AddedTokenReader:
    """Reads a text between its added tokens, and puts these where they stood.

    Args:
        encode: function from valid UTF-8 (B,) to ids, RaggedTensor of int32 (B, None).
        spec: dict, the content of a tokenizer.json.
    """

    def __init__(self, encode, spec):
        self._encode = encode
        read = [token for token in spec["added_tokens"] if not token["special"]]
        special = [token["content"] for token in spec["added_tokens"] if token["special"]]
        for token in read:
            flags = [name for name in ("single_word", "lstrip", "rstrip") if token[name]]
            if token["normalized"] and spec["normalizer"] is not None:
                flags.append("normalized")
            if flags:
                refuse("added token", (token["content"], *flags), "those that are found as they are, and special ones")
            if any(_overlap(other, token["content"]) for other in special):
                refuse("added token", token["content"], "those that are no part of special ones")
        contents = sorted((token["content"] for token in read), key=lambda text: -len(text.encode()))
        self._pattern = "|".join(map(escaped, contents))
        ids = {token["content"]: token["id"] for token in read}
        content = tf.lookup.KeyValueTensorInitializer(list(ids), list(ids.values()), tf.string, tf.int32)
        self._ids = tf.lookup.StaticHashTable(content, default_value=-1)
        self.longest = max(len(text.encode()) for text in contents)

    def __call__(self, texts):
        cut = tf.strings.regex_replace(texts, f"({self._pattern})", rb"\xff\1\xff".replace(rb"\xff", _CUT))
        pieces = tf.strings.split(cut, _CUT)
        flat, rows = pieces.flat_values, pieces.value_rowids()
        number = tf.range(tf.size(flat, tf.int64)) - tf.gather(pieces.row_starts(), rows)
        is_token = number % 2 == 1
        ids = self._encode(tf.where(is_token, "", flat))
        found = tf.boolean_mask(self._ids.lookup(flat), is_token)
        found = tf.RaggedTensor.from_row_lengths(found, tf.cast(is_token, tf.int64))
        whole = tf.concat([ids, found], axis=1)
        rows = tf.gather(rows, whole.value_rowids())
        return tf.RaggedTensor.from_value_rowids(whole.flat_values, rows, nrows=pieces.nrows())


def escaped(text):
    """A text as a regular expression that matches it and nothing else."""
    return "".join(character if character.isalnum() else rf"\x{{{ord(character):x}}}" for character in text)


def _overlap(special, other):
    """Whether two tokens can share text, so that finding the one hides the other."""
    shares = any(special.endswith(other[:size]) or other.endswith(special[:size]) for size in range(1, len(other)))
    return shares or other in special or special in other
