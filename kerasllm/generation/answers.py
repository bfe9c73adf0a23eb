"""Messages to an answer: the tokenizer's chat template writes the prompt, and the answer ends where its turn does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from kerasllm.generation.buffers import DEFAULT_NEW_TOKENS
from kerasllm.generation.held_back import Filter, HeldBack, checked_filter
from kerasllm.generation.text import pieces, start_decoding
from kerasllm.generation.text_stream import TextStream, stop_strings
from kerasllm.images import ImageProcessor, chat_prompt
from kerasllm.images.chats import encode_shown
from kerasllm.models.shapes import context_length
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.chat_template import turn_end_id
from kerasllm.tokenizers.messages import without_oldest_turn


def chat(
    model: keras.Model,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    max_new_tokens: int | None = None,
    **options: Any,
) -> str:
    """Answers the last message of a chat.

    Args:
        model: a `CausalLM`.
        tokenizer: the model's `Tokenizer`, with a chat template.
        messages: list of dicts with a "role", "system", "user" or "assistant" for the most part, and a "content"
            (str). Special tokens in them are plain text. For a model that sees, a content may be a list of parts, as
            `images.chat_prompt` takes them, with images and videos.
        max_new_tokens: int; None means up to 256, within the model's context.
        **options: as in `generate`, and
            processor: `ImageProcessor` of a model that sees, by default its own.
            chat_template: str, in place of the tokenizer's own.
            template_variables: dict of what else the template takes, such as `{"enable_thinking": False}`, or
                `{"tools": [...]}`, of Python functions (see `tokenizers.tool_schemas`) or their JSON schemas.
            continue_final_message: bool. Go on with the last message, of which the answer is the rest.
            shorten: bool. Leave out the oldest turns of a chat that is longer than the context: a user's message with
                all that follows it until the next. System messages at the beginning stay.

    Returns:
        str, the answer. It ends at the end of a turn, at an end token, at a stop string or at `max_new_tokens`.

    Raises:
        TypeError: if `messages` is something else.
        ValueError: if there is no template, or it refuses the messages, or the chat is longer than the context.

    Example:
        >>> model, tokenizer = kerasllm.load("Qwen3-0.6B")
        >>> kerasllm.chat(model, tokenizer, [{"role": "user", "content": "Who are you?"}])
    """
    return "".join(stream_chat(model, tokenizer, messages, max_new_tokens, **options))


def stream_chat(
    model: keras.Model,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    max_new_tokens: int | None = None,
    *,
    processor: ImageProcessor | None = None,
    chat_template: str | None = None,
    template_variables: Mapping[str, Any] | None = None,
    continue_final_message: bool = False,
    shorten: bool = False,
    stop: str | Sequence[str] | None = None,
    filter: Filter | None = None,
    **options: Any,
) -> Iterator[str]:
    """Answers piece by piece; the pieces joined are what `chat` returns.

    Args:
        model, tokenizer, messages, max_new_tokens, processor, chat_template, template_variables,
            continue_final_message, shorten, stop, filter, **options: see `chat`.

    Returns:
        iterator of str.

    Example:
        >>> for piece in kerasllm.stream_chat(model, tokenizer, [{"role": "user", "content": "Who are you?"}]):
        ...     print(piece, end="", flush=True)
    """
    tokenizer = as_tokenizer(tokenizer)
    variables = {"continue_final_message": continue_final_message, **(template_variables or {})}
    processor = getattr(model, "image_processor", None) if processor is None else processor

    def encode(messages):
        if processor is None:
            return tokenizer.encode_chat(messages, chat_template=chat_template, **variables)
        return encode_shown(tokenizer, processor, messages, chat_template, **variables)[0]

    messages, prompt_ids = fitting(encode, messages, context_length(model), max_new_tokens, shorten)
    prompt = {"token_ids": prompt_ids}
    if processor is not None:
        prompt = chat_prompt(tokenizer, processor, messages, chat_template=chat_template, **variables)
    turn_end = turn_end_id(tokenizer, chat_template, **variables)
    end_ids = [*tokenizer.end_ids, *([] if turn_end is None else [turn_end])]
    decoding = start_decoding(model, tokenizer, [prompt], max_new_tokens, {**options, "end_ids": end_ids})
    held_back = None if checked_filter(filter) is None else HeldBack(filter, messages)
    return pieces(decoding, TextStream(tokenizer, prompt_ids, stop_strings(stop), held_back))


def fitting(encode, messages, longest, max_new_tokens, shorten):
    """The messages of a chat with space for its answer, and their ids: `max_new_tokens`, or where shortened half of the
    context or what is drawn at most if nothing is said.

    Args:
        encode: function from messages to ids.
        longest: int or None, the most tokens that the model takes.
    """
    ids = encode(messages)
    if longest is None:
        return messages, ids
    size, least = len(ids), max_new_tokens or 1
    kept_free = max_new_tokens or min(DEFAULT_NEW_TOKENS, longest // 2)
    while shorten and len(ids) > longest - kept_free and (shorter := without_oldest_turn(messages)):
        messages = shorter
        ids = encode(messages)
    if len(ids) <= longest - least:
        return messages, ids
    advice = (
        "its last turn alone is too long: shorten that, or ask for fewer new tokens"
        if shorten
        else "shorten=True (--shorten) leaves out its oldest turns"
    )
    raise ValueError(
        f"The chat has {size} tokens, which do not fit the model's context of {longest} with {least} new ones: "
        f"{advice}."
    )
