"""A beginning that many prompts share, read once: a system's message, examples of a task, a chat so far."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.generation.buffers import SMALLEST_BUCKET
from kerasllm.generation.precision import in_float32
from kerasllm.generation.prompts import as_prompts, encode_prompt
from kerasllm.generation.stepping import get_stepper
from kerasllm.layers.cache import BlockCache, KeyValueCache
from kerasllm.layers.named_adapters import adapters_in_use
from kerasllm.models.shapes import context_length, length_dependent_rotations
from kerasllm.tokenizers import Tokenizer, as_tokenizer


class Prefix:
    """What `read_prefix` returns.

    Attributes:
        model: the model that has read it, and is not to be trained on meanwhile.
        token_ids: list of int.
        cache: its keys and values.
        adapters: the names of the adapters that were in use, layer by layer.
    """

    def __init__(self, model: keras.Model, token_ids: list[int], cache: Any) -> None:
        self.model, self.token_ids, self.cache = model, token_ids, cache
        self.adapters = adapters_in_use(model)


class Conversation(Prefix):
    """A prefix that grows: what was read of a chat, turn by turn.

    Given to each turn as `prefix`, it makes the next one read only what is new: its first token comes about as soon as
    that of the first turn. (Layers with a window keep too little of a text, and then nothing is kept.)

    Args:
        model: the model that chats.

    Example:
        >>> conversation = kerasllm.generation.Conversation(model)
        >>> for line in lines:
        ...     messages.append({"role": "user", "content": line})
        ...     answer = kerasllm.chat(model, tokenizer, messages, prefix=conversation)
        ...     messages.append({"role": "assistant", "content": answer})
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model, [], None)

    def grow(self, token_ids: list[int], cache: Any, row: int, begin: int) -> None:
        """Takes what was read of a text.

        Args:
            token_ids: list of int.
            cache: that of a batch, after which `row` holds the text, from place `begin` on.
        """
        if not all(isinstance(block, BlockCache) and isinstance(block.own, KeyValueCache) for block in cache):
            return
        places = SMALLEST_BUCKET
        while places < len(token_ids):
            places *= 2

        def cut(part):
            part = part[row : row + 1, :, begin : begin + len(token_ids)]
            return ops.pad(part, ((0, 0), (0, 0), (0, places - len(token_ids)), (0, 0)))

        self.token_ids, self.cache = token_ids, keras.tree.map_structure(cut, cache)
        self.adapters = adapters_in_use(self.model)


def read_prefix(model: keras.Model, tokenizer: Tokenizer, text: str | Sequence[int]) -> Prefix:
    """Reads a beginning once, for prompts that go on from it.

    Args:
        model: a `CausalLM`, or a chain of layers that is decoded with a cache.
        tokenizer: its `Tokenizer`.
        text: str, or list of int, token ids.

    Returns:
        Prefix. With `generate(..., prefix=prefix)` texts are what they are without; a prompt that begins with the same
        tokens, wherever it leaves them, is read from there on.

    Raises:
        ValueError: if the text is longer than the model's context, or the model cannot be decoded with a cache, or
            turns what it has read otherwise when the text grows ("dynamic" and "longrope" rotary positions).

    Example:
        >>> rules = "Answer in one word.\\n"
        >>> prefix = kerasllm.generation.read_prefix(model, tokenizer, rules)
        >>> kerasllm.generate(model, tokenizer, [rules + q for q in questions], prefix=prefix)
    """
    (prompt,), _ = as_prompts(text)
    token_ids = encode_prompt(as_tokenizer(tokenizer), prompt)["token_ids"]
    limit = context_length(model)
    if limit is not None and len(token_ids) > limit:
        raise ValueError(f"A prefix of {len(token_ids)} tokens does not fit the model's context of {limit}.")
    if length_dependent_rotations(model):
        raise ValueError(
            f"{model.name} turns all it has read otherwise as a text grows, by its `rope_scaling`, so a prefix cannot "
            "be kept."
        )
    stepper = get_stepper(model, cached=True)
    read = in_float32(model, stepper.read) if backend.on_cpu() else stepper.read
    return Prefix(model, token_ids, read(ops.convert_to_tensor([token_ids], "int32")))


def first_unread(prefix, model, prompts, P):
    """The first place of P that has to be read, for a batch of prompts (list of dicts) that stand right-aligned; so
    that it is one of few, for each of which the loop is compiled.

    Raises:
        TypeError, ValueError: if the prefix is none, or another model's, or prompts have more than tokens.
    """
    if not isinstance(prefix, Prefix):
        raise TypeError(f"`prefix` is what kerasllm.generation.read_prefix returns, got {type(prefix).__name__}.")
    if prefix.model is not model:
        raise ValueError(f"`prefix` was read by {prefix.model.name}, which is not this model: read it again by this.")
    if not prefix.token_ids:
        return 0
    if prefix.adapters != adapters_in_use(model):
        raise ValueError("`prefix` was read with other adapters than those in use: read it again.")
    if getattr(model, "sees_prompts_whole", False):
        raise ValueError(f"{model.name} sees a prompt whole, so that no part of it can be kept: leave `prefix` out.")
    names = {name for prompt in prompts for name in prompt} - {"token_ids"}
    if names:
        raise ValueError(f"A prefix has tokens alone, got prompts with {min(names)!r}: leave `prefix` out.")
    known = [P - len(prompt["token_ids"]) + _shared(prefix.token_ids, prompt["token_ids"]) for prompt in prompts]
    places = SMALLEST_BUCKET
    while places < P - min(known):
        places *= 2
    return max(P - places, 0)


def _shared(prefix, prompt):
    """How many tokens of a prompt are those of the prefix; all but its last, whose logits are needed."""
    count = 0
    for one, other in zip(prefix, prompt[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count
