"""`kerasllm detect`: whether texts bear a watermark, a line for each: yes or no, z-score, p-value, text."""

import json
from pathlib import Path

from kerasllm.cli.startup import start_keras


def run(arguments):
    texts = arguments.text or [_read(path) for path in arguments.file]
    watermark = read_watermark_file(arguments.watermark)
    start_keras()
    import kerasllm

    tokenizer, options = _tokenizer(arguments.model), {"repeated": arguments.repeated}
    if arguments.calibrate:
        rate = {} if arguments.rate is None else {"false_positive_rate": arguments.rate}
        human = kerasllm.data.read_text(arguments.calibrate)
        options["threshold"] = kerasllm.safety.calibrate(human, tokenizer, watermark, **rate, **options)
    elif arguments.rate is not None:
        raise ValueError("--rate says which share of the texts of --calibrate may seem marked: give that too.")
    elif arguments.threshold is not None:
        options["threshold"] = arguments.threshold
    names = arguments.text or arguments.file
    for name, found in zip(names, kerasllm.safety.detect(texts, tokenizer, watermark, **options), strict=True):
        print(json.dumps({"text": name, **found._asdict()}) if arguments.json else _line(name, found), flush=True)


def read_watermark_file(path):
    """The settings of a watermark in a JSON file, a dict."""
    try:
        settings = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON (line {error.lineno}): it holds the settings of a watermark.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds the settings of a watermark as a JSON object, got {settings!r:.80}.")
    return settings


def _read(path):
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start}.") from error


def _tokenizer(model):
    import kerasllm
    from kerasllm.tokenizers.sides import load_tokenizer

    tokenizer = load_tokenizer(model) if Path(model).is_dir() else kerasllm.load(model)[1]
    return tokenizer[1] if isinstance(tokenizer, tuple) else tokenizer


def _line(name, found):
    shown = "yes" if found.is_watermarked else "no", f"{found.z_score:.2f}", f"{found.p_value:.1e}", name
    return "\t".join(shown)
