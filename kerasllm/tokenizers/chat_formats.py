"""Chat formats by name, for models that have learned to go on with texts and are to learn to answer."""

import tokenizers

# As Qwen, Yi and many others write it; see https://github.com/openai/openai-python/blob/v0.28.1/chatml.md.
_CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

FORMATS = {"chatml": (_CHATML, ("<|im_start|>", "<|im_end|>"))}


def format_of(chat_template, special_tokens):
    """A template and the special tokens that it writes.

    Raises:
        ValueError: for a name that is none of FORMATS.
    """
    if chat_template in FORMATS:
        template, tokens = FORMATS[chat_template]
        return template, (*tokens, *special_tokens)
    if "{" not in chat_template:
        known = ", ".join(map(repr, FORMATS))
        raise ValueError(f"There is no chat format {chat_template!r}: name {known}, or give a template in Jinja2.")
    return chat_template, tuple(special_tokens)


def with_tokens(engine, special_tokens):
    """A copy of an engine with further special tokens, behind all that it has."""
    copy = tokenizers.Tokenizer.from_str(engine.to_str())
    copy.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in special_tokens])
    return copy
