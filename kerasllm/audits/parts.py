"""Parts of a report about a model: each has rows to read, figures for programs, a picture, and what it cannot show."""

import dataclasses
import math
import tempfile
from pathlib import Path

from kerasllm.safety import harms
from kerasllm.settings import FIGURES, TrainSettings
from kerasllm.tasks import TASKS

_PATHS = ("data", "valid", "test", "base", "teacher", "judge", "tokenizer")  # settings that may be paths


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a report.

    Attributes:
        name: str, its key in JSON.
        title: str.
        rows: list of pairs (what, figure) of str.
        figures: what JSON says of it, plain types.
        limits: list of str, what it cannot show.
        pictures: list of bytes, PNG files.
    """

    name: str
    title: str
    rows: list
    figures: dict
    limits: list = dataclasses.field(default_factory=list)
    pictures: list = dataclasses.field(default_factory=list)


def of_model(model, tokenizer):
    """What a model is."""
    config = model.config
    base = getattr(model, "base", None)
    adapters = "adapters" in model.get_config()
    figures = {
        "kind": type(model).__name__,
        "parameters": model.count_params(),
        "layers": config.num_layers,
        "d_model": config.d_model,
        "heads": config.num_heads,
        "context": config.max_length,
        "vocabulary": config.vocab_size,
        "dtype": model.dtype_policy.name,
        "labels": getattr(model, "labels", None),
        "chat_template": getattr(tokenizer, "chat_template", None) is not None,
        "base": (base.id or base.path.name) if adapters and base is not None else None,
    }
    words = {"d_model": "width", "context": "context, tokens", "vocabulary": "vocabulary, tokens", "base": "tuned from"}
    rows = [(words.get(name, name).replace("_", " "), _shown(value)) for name, value in figures.items() if value]
    return Part("model", "The model", rows, figures)


def of_record(record):
    """What the record of a run (`run.json`) says: its data and training, its measures, and what it promises.

    Returns:
        list of `Part`, those that there are.
    """
    given, results = record["settings"], record.get("results", {})
    usual = {field.name: field.default for field in dataclasses.fields(TrainSettings)}
    changed = {name: value for name, value in given.items() if value not in (usual.get(name), list(), {})}
    data = [
        (f"text for {part}", f"{_amount(measured)}, SHA-256 {measured.get('sha256', '-')[:12]}…")
        for part, measured in record["data"].items()
    ]
    trained = [(name.replace("_", " "), _shown(results[name])) for name in FIGURES if results.get(name) is not None]
    settings = [
        (name.replace("_", " "), _shown(_names(value) if name in _PATHS else value))
        for name, value in changed.items()
        if name not in ("out", *FIGURES)
    ]
    versions = [(name, str(version)) for name, version in record["versions"].items()]
    made = [("began", record["started"]), ("backend", record["backend"]), ("machine", record["machine"])]
    energy = results.get("energy")
    rows = [*data, *trained, *settings, *made, *versions]
    if energy:
        rows.append((f"energy in {energy['seconds']:,.0f} s, estimated by {energy['by']}", f"{energy['kwh']:.3g} kWh"))
    figures = {"data": record["data"], "settings": changed, "versions": record["versions"], "energy": energy}
    figures |= {name: results.get(name) for name in FIGURES}
    parts = [Part("training", "How it was trained", rows, figures)]
    scores = {name: value for name, value in results.items() if name not in (*FIGURES, "privacy", "energy")}
    if scores:
        measured = list(TASKS[given["task"]].rows(results))
        limits = ["Text of other kinds than what was held out may be much harder for it."]
        parts.append(Part("measures", "What it does with text that was held out", measured, scores, limits))
    if kept := results.get("privacy"):
        rows = [
            ("differential privacy", f"epsilon {kept['epsilon']:.2f} at delta {kept['delta']:g}"),
            ("what it protects", str(kept["protects"])),
        ]
        limits = ["What is said in several rows is protected less, and a tokenizer trained on the text not at all."]
        parts.append(Part("privacy", "What it promises to keep private", rows, kept, limits))
    return parts


def of_text(perplexity, paths):
    """The perplexity of texts."""
    rows = [(f"perplexity on {' '.join(map(str, paths))}", f"{perplexity:.4g}")]
    return Part("text", "Other text", rows, {"perplexity": perplexity})


def of_bias(scores):
    """What tests of bias found.

    Args:
        scores: dict from names of tests to `BiasScores`.
    """
    rows = []
    for one in scores.values():
        for category in one.categories:
            for measure, estimate in one.estimates(category).items():
                even = one.even.get(measure)
                beside = "" if even is None else f" (even: {even:g})"
                figure = "-" if math.isnan(estimate.value) else _with_interval(estimate)
                rows.append((f"{one.test}, {category}: {measure}{beside}", figure))
    figures = {name: {k: v for k, v in one.to_dict().items() if k != "items"} for name, one in scores.items()}
    limits = list(dict.fromkeys(one.caution for one in scores.values()))
    return Part(
        "bias", "Whether it prefers stereotypes", rows, figures, limits, [_picture(one) for one in scores.values()]
    )


def of_safety(scores):
    """What `SafetyScores` say."""
    ways = {"as written": scores.written, "filtered": scores.filtered or {}}
    rows = [
        (
            harms.MEASURES[measure] + (f", {way}" if scores.filtered else ""),
            harms.shown(one, measure != "expected_maximum"),
        )
        for measure in scores.written
        for way, found in ways.items()
        for one in [found.get(measure)]
        if one is not None
    ]
    if scores.prompts:
        rows.append(("texts", f"{scores.samples} after each of {scores.prompts:,} prompts"))
    if scores.harmless:
        rows.append(("harmless prompts", f"{scores.harmless:,}"))
    figures = scores.to_dict()
    return Part(
        "safety", "What harm it writes, and what it refuses", rows, figures, figures.pop("limits"), [_picture(scores)]
    )


def of_memory(memory):
    """What `Memory` says."""
    found = memory.extraction
    rows = [
        (f"passages repeated {repeats:,} times or more, continued word for word", f"{extracted:,} of {tried:,}")
        for repeats, tried, extracted in zip(found.repeats, found.passages, found.extracted, strict=True)
    ]
    rows.append(("of all of these, nearly word for word", f"{sum(found.nearly):,} of {sum(found.passages):,}"))
    for kind, (written, kept) in memory.personal.items():
        if written:
            rows.append((f"personal data written there: {kind}", f"{written:,}, as the text has it {kept:,}"))
    for one in memory.membership:
        rows.append((f"told from unseen text by {one.attack}, AUC (0.5 by chance)", f"{one.auc:.3f}"))
        for rate, hits in one.true_positive_rates.items():
            rows.append((f"members found by {one.attack} at {rate:.1%} false alarms", f"{hits:.1%}"))
    for repeats, bits in memory.exposure:
        rows.append((f"exposure of a canary repeated {repeats:,} times (1.4 by chance)", f"{bits:.1f} bits"))
    figures = memory.to_dict()
    title = "What it keeps of its training text"
    return Part("memory", title, rows, figures, list(figures.pop("limits")), [_picture(memory)])


def _picture(scores):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        scores.plot(path)
        return path.read_bytes()


def _names(paths):
    """Paths without the folders that they lie in, which are nobody's business; other names stay."""
    if isinstance(paths, list):
        return list(map(_names, paths))
    return Path(paths).name if isinstance(paths, str) and Path(paths).is_absolute() else paths


def _with_interval(estimate):
    value, low, high = (f"{x:.3g}" for x in estimate)
    return value if math.isnan(estimate.low) else f"{value} ({low} to {high})"


def _amount(measured):
    return f"{measured['bytes']:,} bytes" if "bytes" in measured else f"{measured['tokens']:,} tokens"


def _shown(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return str(value)
