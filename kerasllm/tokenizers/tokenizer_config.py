"""What the JSON files beside a vocabulary say: which tokens are special, and how a chat is written."""

from kerasllm.files import read_json, read_utf8

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_settings(folder):
    """The settings of a tokenizer's folder.

    Of tokenizer_config.json and special_tokens_map.json the first counts where it lists the added tokens itself, or
    else the second, as in transformers.

    Args:
        folder: `Path`.

    Returns:
        A dict. Special tokens are None where the files say that there are none. "chat_template" is the text of the
        template for chats, and absent where there is none.

    Raises:
        ValueError: where one of the files is not a JSON object, or the template is not UTF-8.
    """
    config, named = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    settings = {**named, **config} if "added_tokens_decoder" in config else {**config, **named}
    may_be_none = {"additional_special_tokens", *(f"{role}_token" for role in ROLES)}
    settings = {key: value for key, value in settings.items() if value is not None or key in may_be_none}
    template = settings.pop("chat_template", None)
    if (path := folder / "chat_template.jinja").is_file():
        template = read_utf8(path)
    elif isinstance(template, list):  # of named ones, such as one for the use of tools
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return {**settings, "chat_template": template} if isinstance(template, str) else settings


def text_of(token):
    """The text of a token that a file gives as a str, or as a dict with more about it; None for anything else."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
