"""A model card as Hugging Face's hub reads it: YAML for programs, and Markdown for people."""

import re

import yaml

PIPELINES = {
    "CausalLM": "text-generation",
    "MaskedLM": "fill-mask",
    "Seq2SeqLM": "translation",
    "SequenceClassifier": "text-classification",
    "TokenClassifier": "token-classification",
    "TextEmbedder": "sentence-similarity",
    "VisionLanguageModel": "image-text-to-text",
}
# Measures of runs under the names that the hub knows.
_METRICS = {"perplexity": "perplexity", "accuracy": "accuracy", "macro_f1": "f1", "bleu": "bleu", "chrf": "chrf"}
_OF_THE_AUTHOR = (
    "This card was made by `kerasllm audit` of what was recorded and measured. What the model is for, whom it may harm "
    "and under which licence it is, its author is to say here; `license:` belongs into the lines at the top."
)


def model_card(title, parts, missing=(), base=None):
    """A model card.

    Args:
        title: str, the model's name.
        parts: list of `Part`, of which one is of the model.
        missing: list of pairs (what was not measured, the command that would).
        base: str or None, the repository of the hub that it was tuned from.

    Returns:
        str, the content of README.md.
    """
    by_name = {part.name: part for part in parts}
    kind = by_name["model"].figures["kind"]
    pipeline = PIPELINES.get(kind)
    head = {"library_name": "transformers", "tags": ["kerasllm", "keras"]}
    head |= {"pipeline_tag": pipeline} if pipeline else {}
    head |= {"base_model": base} if base else {}
    if results := _results(by_name, pipeline or kind):
        head["model-index"] = [{"name": title, "results": results}]
    sections = [f"# {_plain(title)}", _OF_THE_AUTHOR]
    for part in parts:
        sections += [f"## {part.title}", _table(part.rows)]
        if part.limits:
            sections.append("What this does not show:\n\n" + "\n".join(f"- {_plain(limit)}" for limit in part.limits))
    if missing:
        sections += ["## What was not measured", "\n".join(f"- {_plain(what)}" for what, _ in missing)]
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _results(parts, task):
    """What was measured, in the form of the hub's model index."""
    found = []
    if "measures" in parts:
        figures = parts["measures"].figures
        metrics = [
            {"type": kind, "value": round(float(figures[name]), 6)}
            for name, kind in _METRICS.items()
            if isinstance(figures.get(name), int | float)
        ]
        if metrics:
            dataset = {"name": "text that was held out", "type": "held-out"}
            found.append({"task": {"type": task}, "dataset": dataset, "metrics": metrics})
    return found


def _table(rows):
    lines = [f"| {_plain(what)} | {_plain(figure)} |" for what, figure in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _plain(text):
    """A text that Markdown and HTML take as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))
