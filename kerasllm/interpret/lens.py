"""The logit lens: what a model would say at each place of its residual stream.

Shapes: P places, T time, D d_model, V vocab, k tokens shown.
"""

import dataclasses

import numpy as np

from kerasllm.interpret.drawings import HeatMap
from kerasllm.interpret.pictures import Picture
from kerasllm.interpret.reading import read
from kerasllm.interpret.recording import activations, as_array
from kerasllm.interpret.residual_stream import logits_at, main_transformer, places
from kerasllm.interpret.shown_tokens import token_texts


@dataclasses.dataclass(frozen=True)
class LogitLens(Picture):
    """What a model would say at each place of its residual stream. See `logit_lens`.

    Attributes:
        places: list of P str: "embedding", "block_0/before_feed_forward", "block_0/output" and so on.
        tokens: list of T str, what was read.
        ids: int (P, T, k), the likeliest tokens, best first.
        probabilities: float32 (P, T, k), theirs.
        best: list of P lists of T str, the likeliest token of each.
    """

    places: list
    tokens: list
    ids: np.ndarray
    probabilities: np.ndarray
    best: list
    _model: object = dataclasses.field(repr=False)
    _stream: list = dataclasses.field(repr=False)

    def logits(self, place):
        """Logits at a place (str, or its number): float32 (T, V)."""
        number = self.places.index(place) if isinstance(place, str) else place
        return as_array(logits_at(self._model, self._stream[number]))[0]

    def _drawing(self):
        best, likely = self.best[::-1], self.probabilities[::-1, :, 0]
        return HeatMap(
            likely, self.places[::-1], self.tokens, best, title="the likeliest token, the darker the likelier"
        )


def logit_lens(model, tokenizer, text, target=None, *, top_k=5):
    """What a model would say at each place of its residual stream, if that were its last.

    Args:
        model: `CausalLM`, `MaskedLM` or `Seq2SeqLM`, of which it is the decoder that is looked at.
        tokenizer: the model's `Tokenizer`, or a pair (source, target).
        text: str, what the model reads; of a `Seq2SeqLM`, the source. Or token ids, a list of int.
        target: str or None, what follows; None for what a `Seq2SeqLM` writes.
        top_k: int, the likeliest tokens that are kept.

    Returns:
        `LogitLens`. At the last place its `logits` are the model's.

    Raises:
        TypeError: for a model without logits of tokens.
        ValueError: if the text is longer than the model's context.

    Example:
        >>> lens = interpret.logit_lens(model, tokenizer, "The class of a thing is")
        >>> lens.save("lens.html")

    Reference: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    main_transformer(model)  # or a TypeError
    return lens_of(model, read(model, tokenizer, text, target), top_k)


def lens_of(model, text, top_k=5):
    """The `LogitLens` of a `reading.Text`."""
    where = places(main_transformer(model))
    found = activations(model, text.inputs, sorted({place.tap.partition(":")[0] for place in where}))
    ids, probabilities, best = [], [], []
    for place in where:
        logits = as_array(logits_at(model, found[place.tap]))[0]
        order = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = exponentials / exponentials.sum(axis=-1, keepdims=True)
        ids.append(order)
        probabilities.append(np.take_along_axis(shares, order, axis=-1))
        best.append([token_texts(text.tokenizer, [token])[0] for token in order[:, 0].tolist()])
    names = [place.name for place in where]
    stream = [found[place.tap] for place in where]
    tokens = list(text.sides.values())[-1]
    return LogitLens(names, tokens, np.array(ids), np.array(probabilities), best, model, stream)
