"""What is known of a model before it is loaded: how many weights, its licence and its languages."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import yaml
from safetensors import SafetensorError, safe_open

from kerasllm import gguf
from kerasllm.gguf.container import Container
from kerasllm.huggingface.saving import CARD
from kerasllm.models import TransformerConfig
from kerasllm.models.presets import PRESETS

_FRONT = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LONGEST = 200_000  # characters of a card that are looked at


class Known(NamedTuple):
    """What is known of a candidate before it is loaded.

    Attributes:
        parameters: int or None.
        licence: str, as its card writes it, or "" where it does not.
        languages: tuple of str, likewise.
        is_preset: bool, whether it is a name without weights.
    """

    parameters: int | None
    licence: str = ""
    languages: tuple[str, ...] = ()
    is_preset: bool = False


def known_of(candidate):
    """The `Known` of a folder, a .gguf file, a repository of the hub, or the name of a preset.

    Licence and languages are those of the lines at the top of README.md, or of the keys `general.license` and
    `general.languages` of a .gguf file. They are shown as they are written, and nothing follows from them.

    Raises:
        FileNotFoundError: if it is none of these.
        ValueError: if its weights are damaged.
    """
    path = Path(candidate)
    if path.is_file() and path.suffix.lower() == gguf.SUFFIX:
        container = Container(path)
        parameters = sum(math.prod(place.shape) for place in container.places.values())
        return Known(parameters, *_stated(container.metadata, "general.license", "general.languages"))
    if path.is_dir():
        return Known(_weights_in(path), *read_card(path / CARD))
    if candidate in PRESETS:
        return Known(TransformerConfig.preset(candidate).num_parameters(), is_preset=True)
    if not path.is_absolute() and len(path.parts) == 2:
        return Known(None, *_card_of_hub(candidate))
    raise FileNotFoundError(f"{candidate} is no folder, no .gguf file, no repository (owner/name) and no preset.")


def read_card(path):
    """Licence and languages of a model card: a pair of str and tuple of str, empty where nothing is said.

    Args:
        path: of a README.md, that may be absent.
    """
    if not path.is_file():
        return "", ()
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _FRONT.match(file.read(_LONGEST))
    try:
        front = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return "", ()
    return _stated(front, "license", "language") if isinstance(front, dict) else ("", ())


def _stated(values, licence, languages):
    licence, languages = values.get(licence), values.get(languages)
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else licence
    languages = languages if isinstance(languages, list) else [languages] if languages else []
    # YAML reads the code of Norwegian as a bool.
    return str(licence or ""), tuple("no" if language is False else str(language) for language in languages)


def _card_of_hub(name):
    from huggingface_hub import hf_hub_download

    try:
        return read_card(Path(hf_hub_download(name, CARD)))
    except (OSError, ValueError):  # no card, no network, no such repository: what loads it says so
        return "", ()


def _weights_in(folder):
    """How many numbers the files of a folder have, or None where they are of a form that is not known."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        total = 0
        for path in files:
            with safe_open(path, framework="numpy") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy the folder again.") from error
    return total or None
