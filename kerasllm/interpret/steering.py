"""A direction inside a model, by which a property of what it writes becomes stronger or weaker, and what that costs.

The direction is the mean difference between texts with the property and texts without it, in the residual stream behind
a layer, and is added there: contrastive activation addition (Rimsky et al. 2023, https://arxiv.org/abs/2312.06681).

Shapes: B batch, T time, D width.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kerasllm.generation import generate
from kerasllm.generation.options import real_number, whole_number
from kerasllm.interpret.editing import edit, names
from kerasllm.interpret.recording import activations
from kerasllm.models import CausalLM
from kerasllm.tokenizers import as_tokenizer

_TEXTS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class SteeringVector:
    """From `steering_vector`: what is added for a property.

    Args:
        direction: float32 (D,).
        layer: int, the number of the block behind which it is added.
    """

    direction: np.ndarray
    layer: int

    @property
    def name(self):
        """That of the residual stream which it is added to, as `edit` takes it."""
        return f"block_{self.layer}/output"

    def __repr__(self):
        return f"SteeringVector(layer={self.layer}, norm={np.linalg.norm(self.direction):.3g})"


def steering_vector(
    model: CausalLM,
    tokenizer: Any,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    layer: int | None = None,
) -> SteeringVector:
    """The direction from texts without a property to texts with it.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`.
        positive, negative: lists of str, with and without the property; alike in all else, the pairs of a contrast for
            the best. Each text counts as much, whatever its length; its first token, which every text has a large
            activation at, does not count.
        layer: int, the number of the block behind which the direction is taken, and added. By default the middle one;
            a few around it are worth a try.

    Returns:
        `SteeringVector`, for `steer`.

    Raises:
        TypeError: for a model that does not continue texts.
        ValueError: if a list is empty or has texts of one token, or there is no such layer.

    Example:
        >>> vector = interpret.steering_vector(model, tokenizer, ["I love it!"], ["I hate it!"])
        >>> with interpret.steer(model, vector, 1.5):
        ...     print(kerasllm.generate(model, tokenizer, "The film was"))
    """
    if not isinstance(model, CausalLM):
        raise TypeError(f"A CausalLM is steered, got a {type(model).__name__}.")
    layers = sum(name.endswith("/output") and "block_" in name.split("/")[-2] for name in names(model))
    layer = layers // 2 if layer is None else whole_number("layer", layer, 0)
    if layer >= layers:
        raise ValueError(f"`layer` must be less than {layers}, the number of the model's blocks, got {layer}.")
    vector = SteeringVector(np.zeros(0), layer)
    means = [_mean_activation(model, as_tokenizer(tokenizer), texts, vector.name) for texts in (positive, negative)]
    return dataclasses.replace(vector, direction=(means[0] - means[1]).astype("float32"))


@contextlib.contextmanager
def steer(model: CausalLM, vector: SteeringVector, strength: float = 1.0):
    """Within it, a model writes with more of a property, in `generate`, `chat` and wherever it is called.

    At each token, strength times the direction is added to the residual stream. What a strength costs,
    `steering_effect` tells: too much of it, and texts fall apart.

    Args:
        model: the `CausalLM` that the vector is of.
        vector: a `SteeringVector`. For several, stand in several `steer`s.
        strength: float. 1 is as much as texts with the property differ from those without; a negative one takes the
            property away, and 0 changes nothing at all.

    Raises:
        TypeError, ValueError: for a vector of another model, or a strength that is not finite.

    Example:
        >>> with interpret.steer(model, formal, 1.5):
        ...     print(kerasllm.chat(model, tokenizer, messages))
    """
    check_vector(model, vector)
    if not math.isfinite(real_number("strength", strength)):
        raise ValueError(f"`strength` must be finite, got {strength}.")
    if not strength:
        yield
        return
    added = np.float32(strength) * vector.direction
    with edit(model, {vector.name: lambda x: x + ops.cast(added, x.dtype)}):
        yield


def check_vector(model, vector):
    """Refuses what cannot be added inside of a model.

    Raises:
        TypeError, ValueError: the message says why.
    """
    if not isinstance(vector, SteeringVector):
        raise TypeError(f"What steers is a SteeringVector, got {vector!r:.80}.")
    if vector.direction.shape != (model.config.d_model,):
        raise ValueError(
            f"The vector has shape {vector.direction.shape}, and {model.name} a width of {model.config.d_model}: it is "
            "of another model."
        )


class SteeringEffect(NamedTuple):
    """What a strength does.

    strength: float.
    perplexity: float, of neutral texts.
    ratio: float, that in proportion to the perplexity without.
    share: float or None, of the texts that were written those that have the property.
    texts: list of str, these.
    """

    strength: float
    perplexity: float
    ratio: float
    share: float | None
    texts: list


def steering_effect(
    model: CausalLM,
    tokenizer: Any,
    vector: SteeringVector,
    neutral: Iterable[str],
    strengths: Sequence[float] = (0.0, 0.5, 1.0, 2.0),
    *,
    prompts: Sequence[str] = (),
    has_property: Callable[[list[str]], Sequence[bool]] | None = None,
    **options: Any,
) -> list[SteeringEffect]:
    """What steering does, and what it costs: for each strength, how many texts come to have the property, and how much
    less a text that has nothing to do with it is expected.

    Args:
        model, tokenizer, vector: as for `steer`.
        neutral: documents (str), by whose perplexity the cost is told.
        strengths: floats.
        prompts: list of str, which are continued for each strength.
        has_property: function from a list of texts to bools, such as a classifier that has not seen the texts of the
            vector; or None.
        **options: as for `generate`.

    Returns:
        list of `SteeringEffect`.

    Example:
        >>> for effect in interpret.steering_effect(model, tokenizer, vector, neutral, prompts=["The", "It"]):
        ...     print(f"{effect.strength}: perplexity times {effect.ratio:.2f}: {effect.texts[0]}")
    """
    from kerasllm.evaluation import perplexity  # which takes TensorFlow; to look inside on JAX alone does not

    neutral = list(neutral)
    plain, found = perplexity(model, tokenizer, neutral).perplexity, []
    for strength in strengths:
        with steer(model, vector, strength):
            steered = perplexity(model, tokenizer, neutral).perplexity if strength else plain
            texts = generate(model, tokenizer, list(prompts), **options)
        share = float(np.mean(has_property(texts))) if has_property is not None and texts else None
        found.append(SteeringEffect(float(strength), steered, steered / plain, share, texts))
    return found


def _mean_activation(model, tokenizer, texts, name):
    """The mean over texts of their means over tokens, float64 (D,)."""
    if isinstance(texts, str) or not list(texts):
        raise ValueError(f"`positive` and `negative` are lists of texts, got {texts!r:.80}.")
    longest = model.config.max_length
    rows = [ids[:longest] for ids in tokenizer.encode_batch(texts)]
    if short := [text for text, ids in zip(texts, rows, strict=True) if len(ids) < 2]:
        raise ValueError(f"A text needs two tokens to say anything, got {short[0]!r:.80}.")
    rows.sort(key=len)
    total = 0.0
    for begin in range(0, len(rows), _TEXTS_AT_ONCE):
        some = rows[begin : begin + _TEXTS_AT_ONCE]
        width = max(map(len, some))
        ids = np.array([[*row, *[row[-1]] * (width - len(row))] for row in some], "int32")
        (found,) = activations(model, ids, name).values()
        for row, activation in zip(some, found, strict=True):  # What stands behind a text changes nothing before it.
            total += activation[1 : len(row)].mean(axis=0, dtype="float64")
    return total / len(rows)
