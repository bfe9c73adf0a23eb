"""Chat formats by name, for models that have learned to go on with texts and are to learn to answer."""

from collections.abc import Iterable

import tokenizers

from kerasllm.tokenizers.chat_template import turn_end_id
from kerasllm.tokenizers.tokenizer import Tokenizer

# As Qwen, Yi and many others write it; see https://github.com/openai/openai-python/blob/v0.28.1/chatml.md.
_CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

FORMATS = {"chatml": (_CHATML, ("<|im_start|>", "<|im_end|>"))}


def with_chat_format(
    tokenizer: Tokenizer, chat_template: str = "chatml", special_tokens: Iterable[str] = ()
) -> Tokenizer:
    """A tokenizer like this one that writes chats, for a model that is to learn them.

    `kerasllm.models.with_new_tokens` makes a model for the tokens that it has more. Where texts begin with the start
    token, as some tokenizers have it, chats in a format by name do too.

    Args:
        tokenizer: `Tokenizer`. It stays as it is.
        chat_template: "chatml", or a template in Jinja2's language.
        special_tokens: further special tokens (str) that the template writes. Those that the vocabulary has keep their
            ids; others get ids behind all of its own.

    Returns:
        A new `Tokenizer`, with that `chat_template`. The token that ends turns is among its `end_ids`.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> tokenizer = with_chat_format(Tokenizer.train(["to be or not"], kind="char", progress=False))
    >>> ids = tokenizer.encode_chat([{"role": "user", "content": "to be?"}], add_generation_prompt=False)
    >>> tokenizer.decode(ids[-2:-1], skip_special=False)
    '<|im_end|>'
    """
    if chat_template not in FORMATS and "{" not in chat_template:
        known = ", ".join(map(repr, FORMATS))
        raise ValueError(f"There is no chat format {chat_template!r}: name {known}, or give a template in Jinja2.")
    template, tokens = FORMATS.get(chat_template, (chat_template, ()))
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    added = [tokenizers.AddedToken(token, normalized=False, special=True) for token in (*tokens, *special_tokens)]
    engine.add_special_tokens(added)
    chatting = Tokenizer(engine, **{role: token or "" for role, token in tokenizer.special_tokens.items()})
    begins = template != chat_template and tokenizer.encode("")[:1] == [tokenizer.start_id]
    chatting.chat_template = "{{- bos_token }}" * begins + template
    turn_end = turn_end_id(chatting)
    chatting.end_ids = list(dict.fromkeys([*tokenizer.end_ids, *([] if turn_end is None else [turn_end])]))
    return chatting
