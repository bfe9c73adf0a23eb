"""Messages to an answer: the tokenizer's chat template writes the prompt, and the answer ends where its turn does."""

from kerasllm.generation.text import begin, pieces, stop_strings
from kerasllm.tokenizers.chat_template import turn_end_id


def chat(model, tokenizer, messages, max_new_tokens=None, **options):
    """Answers the last message of a chat.

    Args:
        model: a `CausalLM`.
        tokenizer: the model's `Tokenizer`, with a chat template.
        messages: list of dicts with a "role", "system", "user" or "assistant" for the most part, and a "content"
            (str). Special tokens in them are plain text.
        max_new_tokens: int; None means up to 256, within the model's context.
        **options: as in `generate`, and
            chat_template: str, in place of the tokenizer's own.
            template_variables: dict of what else the template takes, such as `{"enable_thinking": False}`.

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
    model,
    tokenizer,
    messages,
    max_new_tokens=None,
    *,
    chat_template=None,
    template_variables=None,
    stop=None,
    **options,
):
    """Answers piece by piece; the pieces joined are what `chat` returns.

    Args:
        model, tokenizer, messages, max_new_tokens, chat_template, template_variables, stop, **options: see `chat`.

    Returns:
        iterator of str.

    Example:
        >>> for piece in kerasllm.stream_chat(model, tokenizer, [{"role": "user", "content": "Who are you?"}]):
        ...     print(piece, end="", flush=True)
    """
    variables = template_variables or {}
    prompt_ids = tokenizer.encode_chat(messages, chat_template=chat_template, **variables)
    turn_end = turn_end_id(tokenizer, chat_template, **variables)
    end_ids = [*tokenizer.end_ids, *([] if turn_end is None else [turn_end])]
    decoding = begin(model, tokenizer, [prompt_ids], max_new_tokens, {**options, "end_ids": end_ids})
    return pieces(decoding, tokenizer, prompt_ids, stop_strings(stop))
