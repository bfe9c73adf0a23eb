"""Files of filters, which `--filter` takes: YAML of what a `kerasllm.safety.Filter` is made of."""

from pathlib import Path

from kerasllm.files import read_utf8, read_yaml_file

_KEYS = {
    "words": "words that are refused, or a file with one a line",
    "patterns": "regular expressions of what is refused",
    "classifier": "model, and perhaps unsafe, threshold and pairs",
    "guard": "model, and perhaps unsafe and safe",
    "answer": "what is answered in the place of what is refused",
    "log": "a file for all decisions",
}
_OF_MODELS = {"classifier": {"model", "unsafe", "threshold", "pairs"}, "guard": {"model", "unsafe", "safe"}}


def add_filter_argument(command):
    """Adds the flag to a parser."""
    command.add_argument(
        "--filter", metavar="FILE", help="YAML of what may not be said, by words, patterns or models: see the docs"
    )


def read_filter_file(path):
    """The settings of a filter, a dict, with the words of a file in its place. Paths in it are from where it lies.

    Raises:
        FileNotFoundError: if it is not there, or a file that it names.
        ValueError: if it says something else.
    """
    path = Path(path)
    settings = read_yaml_file(path, f"There is no file {path}: --filter takes the YAML file of a filter.")
    if not isinstance(settings, dict) or not settings.keys() & {"words", "patterns", "classifier", "guard"}:
        raise ValueError(f"{path} is no filter, which has {', '.join(_KEYS)}: at least one of the first four.")
    if unknown := sorted(map(str, settings.keys() - _KEYS.keys())):
        raise ValueError(f"{path} has {unknown[0]!r}, and a filter has {', '.join(_KEYS)}.")
    for part, keys in _OF_MODELS.items():
        given = settings.get(part, {"model": ""})
        if not isinstance(given, dict) or "model" not in given or given.keys() - keys:
            raise ValueError(f"{path}: {part} has {', '.join(sorted(keys))}, model at least; got {given!r:.80}.")
        if part in settings:
            settings[part] = {**given, "model": _beside(path, given["model"])}
    if isinstance(settings.get("words"), str):
        words = Path(_beside(path, settings["words"]))
        if not words.is_file():
            raise FileNotFoundError(f"There is no file {words}, which {path} names for words.")
        settings["words"] = [line.strip() for line in read_utf8(words).splitlines() if line.strip()]
    if "log" in settings:
        settings["log"] = str(path.parent / str(settings["log"]))
    return settings


def _beside(path, name):
    """A path that stands in a file as it is from here; the name of a repository stays."""
    beside = path.parent / str(name)
    return str(beside if beside.exists() else name)


def make_filter(settings):
    """The `kerasllm.safety.Filter` of what `read_filter_file` gives; None of None."""
    if settings is None:
        return None
    import kerasllm
    from kerasllm import safety

    parts = []
    if "words" in settings or "patterns" in settings:
        parts.append(safety.Blocklist(settings.get("words", ()), settings.get("patterns", ())))
    for name, kind in (("classifier", safety.TextClassifier), ("guard", safety.GuardModel)):
        if name in settings:
            options = dict(settings[name])
            parts.append(kind(*kerasllm.load(options.pop("model")), **options))
    return safety.Filter(*parts, **{name: settings[name] for name in ("answer", "log") if name in settings})
