"""Settings as people write them: a YAML file, and fields of the model on the command line."""

import yaml

from kerasllm.files import read_yaml_file
from kerasllm.settings.names import MODEL_FLAGS, SHORT, merged
from kerasllm.settings.train_settings import NAMES, advice_on


def read_fields(texts):
    """Fields of the model from the command line, list of "model.FIELD=VALUE" or, of a field that is a mapping,
    "model.FIELD.FIELD=VALUE"; the values are read as YAML."""
    fields = {}
    for text in texts:
        name, is_there, value = text.partition("=")
        prefix, *path = name.strip().split(".")
        if not is_there or prefix != "model" or not path or not all(path):
            raise ValueError(f"--set takes a field of the model, such as model.num_kv_heads=2, not {text!r}.")
        try:
            value = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"--set {text}: the value is not YAML.") from error
        for part in reversed(path):
            value = {part: value}
        fields = merged(fields, value)
    return fields


def read_yaml(path):
    """Reads settings from a YAML file.

    Args:
        path: path of a file with a mapping from names of settings, as in the flags but with underscores, to values.

    Returns:
        A dict of the settings it gives, under the names that it gives them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a mapping, or has a key that is no setting; the message names it.
    """
    values = read_yaml_file(path, f"There is no settings file {path}; --config takes a YAML file.")
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines such as `batch_size: 32`, not a {type(values).__name__}.")
    for key in values:
        if key not in (*NAMES, *MODEL_FLAGS, *SHORT):
            raise ValueError(f"{path} has the unknown setting {key!r}{advice_on(str(key))}")
    return values
