"""Reading a tokenizer's folder, of any of Hugging Face's formats."""

from kerasllm.files import read_json
from kerasllm.tokenizers.older_formats import read_tokenizer
from kerasllm.tokenizers.tokenizer_config import read_settings
from kerasllm.tokenizers.tokenizer_json import read_tokenizer_json


def read_folder(path):
    """Reads the files of a tokenizer.

    Args:
        path: `Path` of a folder, or of its tokenizer.json or one of Marian's two models.

    Returns:
        A `tokenizers.Tokenizer`, and a dict of what the files say and what holds where they say nothing.

    Raises:
        FileNotFoundError: where there is no tokenizer.
        ValueError: where a file is damaged, or of a kind that cannot be converted.
    """
    folder = path if path.is_dir() else path.parent
    settings = read_settings(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    try:
        if path.suffix == ".spm":
            found = read_tokenizer(folder, settings, config, name=path.name)
        elif path.is_file():
            found = read_tokenizer_json(path, settings, config)
        elif (path / "tokenizer.json").is_file():
            found = read_tokenizer_json(path / "tokenizer.json", settings, config)
        else:
            found = read_tokenizer(path, settings, config)
    except TypeError as error:
        raise ValueError(f"{folder}: a setting of tokenizer_config.json is of the wrong type: {error}.") from error
    if found is None:
        raise FileNotFoundError(f"No tokenizer at {path}: a folder with a tokenizer.json, or that file, is needed.")
    return found
