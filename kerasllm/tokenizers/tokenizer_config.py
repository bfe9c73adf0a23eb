"""What the JSON files beside a vocabulary say: which tokens are special, and how a chat is written."""

from kerasllm.files import read_json

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_settings(folder):
    """The settings of a tokenizer's folder, those of tokenizer_config.json over those of special_tokens_map.json.

    Args:
        folder: `Path`.

    Returns:
        A dict. "chat_template" is the text of the template for chats, and absent where there is none.

    Raises:
        ValueError: where one of the files is not a JSON object, or the template is not UTF-8.
    """
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    template = settings.pop("chat_template", None)
    if (path := folder / "chat_template.jinja").is_file():
        try:
            template = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: byte {error.start}.") from error
    elif isinstance(template, list):  # of named ones, such as one for the use of tools
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return {**settings, "chat_template": template} if isinstance(template, str) else settings


def text_of(token):
    """The text of a token that a file gives as a str, or as a dict with more about it; None for anything else."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
