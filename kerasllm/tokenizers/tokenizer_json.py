"""Reading a tokenizer.json with the settings beside it, as transformers' AutoTokenizer reads the two."""

import contextlib
import json
import warnings

import tokenizers

from kerasllm.files import read_utf8
from kerasllm.tokenizers import classes
from kerasllm.tokenizers.special_tokens import add_special_tokens

SAVED_HERE = {"made_by": "kerasllm"}  # in a tokenizer_config.json: the tokenizer.json has all that it says
_NOT_HEEDED = ("add_bos_token", "add_eos_token")  # beside a tokenizer.json


def read_tokenizer_json(file, settings, config):
    """Reads a tokenizer.json.

    Args:
        file: `Path`.
        settings: dict, from `read_settings`.
        config: dict, the config.json beside it.

    Returns:
        A `tokenizers.Tokenizer`, and the settings with what holds where they say nothing.

    Raises:
        ValueError: where it is no tokenizer.json.
    """
    spec = _read(file)
    if all(settings.get(key) == value for key, value in SAVED_HERE.items()):
        return _parsed(file, spec), settings
    row = classes.CLASSES.get(classes.class_of(settings, config, spec))
    if row and row.model.get("type") != spec["model"]["type"]:  # such as XLM-R's vocabulary in a folder of BERT
        row = None
    named = {key: value for key, value in settings.items() if key not in _NOT_HEEDED}
    settings = {**(row.defaults if row else {}), **named}
    engine = _rebuilt(file, spec, row, settings) if row else _parsed(file, {**spec, "added_tokens": []})
    listed = spec["added_tokens"]
    if row and "added_tokens_decoder" in settings:  # which then says what of the vocabulary is special
        listed = [token for token in listed if engine.token_to_id(token["content"]) is None]
    places = add_special_tokens(engine, file.parent, named, row, listed)
    if row and not row.keeps_post_processor:
        with contextlib.suppress(ValueError):  # where tokens are missing, what the file puts around a text stays
            classes.put_around(engine, row, settings, file.parent)
    wrong = next((token for token, place in places.items() if engine.token_to_id(token) != place), None)
    if wrong:
        warnings.warn(
            f"{file.parent} gives the token {wrong!r} the id {places[wrong]}, but it is {engine.token_to_id(wrong)} by "
            f"its {file.name}: that is taken, as transformers does.",
            stacklevel=5,
        )
    return engine, settings


def _rebuilt(file, spec, row, settings):
    """The engine that a class makes of a tokenizer.json, without its added tokens."""
    engine = _parsed(file, classes.without_words(spec, row, settings))
    try:
        rules = classes.rules_of(spec.get("normalizer"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is not a Hugging Face tokenizer.json: its normalizer is damaged ({error})."
        ) from error
    return classes.equipped(engine, row, settings, rules)


def _read(file):
    """A tokenizer.json as a dict."""
    text = read_utf8(file)
    try:
        spec = json.loads(text)
        if "type" in spec["model"] and isinstance(spec["added_tokens"], list):
            return spec
    except (KeyError, TypeError, ValueError, RecursionError):
        pass  # `tokenizers` says what is wrong, or fills in what old files left out
    return json.loads(_parsed(file, text).to_str())


def _parsed(file, spec):
    try:
        return tokenizers.Tokenizer.from_str(spec if isinstance(spec, str) else json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{file} is not a Hugging Face tokenizer.json: {error}.") from error
