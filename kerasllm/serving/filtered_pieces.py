"""Texts of requests that a filter lets pass, in the place of those that a model makes."""

import asyncio
import copy
import dataclasses
import traceback

from kerasllm.generation.held_back import HeldBack
from kerasllm.serving.engine import Piece
from kerasllm.serving.protocol import BadRequest

REFUSED = "content_filter"  # OpenAI's finish reason


class FilteredPieces:
    """As `app._Pieces`, but a sentence at a time, each judged in a thread of its own before it is one.

    Likely tokens are told once the text that they stand in has left; candidates are not, as nobody has judged them.

    Args:
        made: `app._Pieces`, of those texts whose prompts are not refused.
        held: list of `HeldBack`, one for each text.
        numbers: list of int, which texts those of `made` are.
    """

    def __init__(self, made, held, numbers):
        self._made, self._held, self._numbers = made, held, numbers
        self._tokens = [[] for _ in held]
        self._refused = [index for index, one in enumerate(held) if one.refused]  # and not told yet
        self._left = len(numbers)
        self.num_texts, self.began = len(held), made.began
        self.cancel, self.usage = made.cancel, made.usage

    async def next(self, request=None):
        """The next `Piece`, or None after the last; see `app._Pieces`."""
        if self._refused:
            index = self._refused.pop(0)
            return Piece(index, self._held[index].opening, [], REFUSED, 0)
        while self._left and (piece := await self._made.next(request)) is not None:
            index = self._numbers[piece.index]
            held, is_last = self._held[index], piece.finish_reason is not None
            if held.refused:
                continue
            text = await self._judged(held, piece.text, is_last)
            if held.refused:
                self._ended()
                return Piece(index, text, [], REFUSED, piece.num_tokens)
            self._tokens[index] += piece.tokens
            if is_last:
                self._ended()
            if text or is_last:
                tokens = [] if held.waiting else self._tokens[index]
                self._tokens[index] = self._tokens[index] if held.waiting else []
                return dataclasses.replace(piece, index=index, text=text, tokens=tokens, candidates=None)
        return None

    async def _judged(self, held, text, is_last):
        try:
            return await asyncio.to_thread(held.read, text, is_last)
        except Exception:
            traceback.print_exc()
            self.cancel()
            raise BadRequest("The filter failed; the server's log says how.", status=500) from None

    def _ended(self):
        """One text less is to come. After the last, what the model still writes of refused ones is for nobody."""
        self._left -= 1
        if not self._left:
            self.cancel()


async def hold_back(filter, said, texts):
    """`HeldBack`s of so many texts after each of some lists of messages, which are judged once, in a thread."""
    held = await asyncio.to_thread(lambda: [HeldBack(filter, messages) for messages in said])
    return [copy.copy(one) for one in held for _ in range(texts)]
