"""Tokenizers for what their models are to learn: to answer chats, in formats by name, and to see images."""

from collections.abc import Iterable

import tokenizers

from kerasllm.tokenizers.chat_template import turn_end_id
from kerasllm.tokenizers.tokenizer import Tokenizer

# As Qwen, Yi and many others write it; see https://github.com/openai/openai-python/blob/v0.28.1/chatml.md.
_CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# What goes before a template that takes texts alone: contents in parts become texts, with a token for each image.
_PARTS = """{%- set ns = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.content is iterable and message.content is not string -%}
{%- set said = namespace(text='') -%}
{%- for part in message.content -%}
{%- set said.text = said.text + ('IMAGE' if part.type == 'image' else part.text) -%}
{%- endfor -%}
{%- set message = dict(message, content=said.text) -%}
{%- endif -%}
{%- set ns.messages = ns.messages + [message] -%}
{%- endfor -%}
{%- set messages = ns.messages -%}
"""

FORMATS = {"chatml": (_CHATML, ("<|im_start|>", "<|im_end|>"))}


def with_image_token(tokenizer: Tokenizer, token: str = "<image>") -> Tokenizer:
    """A tokenizer like this one that has a token for images, which its chat template writes for each image of a chat.

    `kerasllm.models.with_new_tokens` makes a model that has a row for it.

    Args:
        tokenizer: `Tokenizer`. It stays as it is.
        token: str. If the vocabulary has it, it keeps its id; else it gets one behind all others.

    Returns:
        A new `Tokenizer`. Templates that write images already are left as they are.

    Example:

    >>> tokenizer = with_image_token(Tokenizer.train(["to be or not"], kind="char", progress=False))
    >>> len(tokenizer.encode("<image>", parse_special=True))
    1
    """
    seeing = _with_special_tokens(tokenizer, [token])
    if seeing.chat_template is not None and "image" not in seeing.chat_template:
        seeing.chat_template = _PARTS.replace("IMAGE", token) + seeing.chat_template
    return seeing


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
    chatting = _with_special_tokens(tokenizer, (*tokens, *special_tokens))
    begins = template != chat_template and tokenizer.encode("")[:1] == [tokenizer.start_id]
    chatting.chat_template = "{{- bos_token }}" * begins + template
    turn_end = turn_end_id(chatting)
    chatting.end_ids = list(dict.fromkeys([*tokenizer.end_ids, *([] if turn_end is None else [turn_end])]))
    return chatting


def _with_special_tokens(tokenizer, special_tokens):
    """A tokenizer that has these special tokens too, behind all of its own."""
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    engine.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=True) for token in special_tokens]
    )
    grown = Tokenizer(engine, **{role: token or "" for role, token in tokenizer.special_tokens.items()})
    grown.end_ids, grown.chat_template = list(tokenizer.end_ids), tokenizer.chat_template
    return grown
