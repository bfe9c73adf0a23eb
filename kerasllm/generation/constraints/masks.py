"""The rule that holds texts to masks, which are made between runs of the compiled loop.

Shapes: B batch, V vocab, W words of 32 bits, F forced tokens.
"""

import dataclasses

import numpy as np
from keras import ops

from kerasllm.generation.constraints.tables import LOWEST
from kerasllm.generation.rules import LogitsRule

MOST_FORCED = 16  # tokens of a run of the loop


@dataclasses.dataclass(frozen=True)
class FollowsMasks(LogitsRule):
    """Tokens follow that are forced, one after the other, and behind them one that a mask has.

    The state is filled by a `Guide`: "forced" int32 (B, F), with -1 behind; "words" int32 (B, W), a bit for each token,
    those of lower ids lower. It is to be the last of several rules, as `FollowsTables` is.
    """

    def start(self, tokens, is_prompt, vocab_size):
        zeros = ops.zeros_like(tokens[:, :1])
        return {"forced": ops.tile(zeros - 1, (1, MOST_FORCED)), "words": ops.tile(zeros, (1, -(-vocab_size // 32)))}

    def apply(self, logits, state):
        return masked(logits, state["forced"][:, :1], state["words"])

    def advance(self, state, token):
        forced = state["forced"]
        return {**state, "forced": ops.concatenate([forced[:, 1:], ops.zeros_like(forced[:, :1]) - 1], axis=1)}


def masked(logits, forced, words):
    """Logits (B, V), with minus infinity for all but a forced token, int32 (B, 1); where that is -1, for those whose
    bits in words (B, W) are not set."""
    ids = ops.arange(logits.shape[-1], dtype="int32")
    bits = ops.right_shift(words[:, :, None], ops.arange(32, dtype="int32")[None, None])
    bits = ops.reshape(ops.bitwise_and(bits, 1), (-1, 32 * words.shape[1]))[:, : logits.shape[-1]]
    allowed = ops.where(forced >= 0, ids[None] == forced, bits > 0)
    return ops.where(allowed, ops.maximum(logits, LOWEST), -float("inf"))


def look_at(texts, vocab_size):
    """The state of `FollowsMasks` for some texts, and for how many steps it holds.

    Args:
        texts: list of B `GuidedText`, or None for those that any token may follow.
        vocab_size: int, V.
    """
    forced = np.full((len(texts), MOST_FORCED), -1, "int32")
    words = np.full((len(texts), -(-vocab_size // 32)), -1, "int32")
    steps = MOST_FORCED
    for row, text in enumerate(texts):
        if text is not None:
            text.look(words[row : row + 1])
            given = text.forced[:MOST_FORCED]
            forced[row, : len(given)] = given
            steps = min(steps, len(text.forced) + 1)
    return {"forced": forced, "words": words}, steps
