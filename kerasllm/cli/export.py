"""`kerasllm export`: a SavedModel, or a file for the edge, held against the model it was made from."""

import os
import shlex

from kerasllm.cli.merge import load_merged
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder

_OPTIONS = {"saved-model": ("compiled", "constraint", "ids"), "litert": ("quantize", "context")}


def run(arguments):
    _check_options(arguments)
    check_new_folder(arguments.folder)  # before a model is loaded
    os.environ["KERAS_BACKEND"] = "tensorflow"  # A run folder knows no backend, and what is written is TensorFlow's.
    start_keras()
    model, tokenizer = load_merged(arguments.model)
    writers = {"saved-model": _write_saved_model, "litert": _write_litert, "onnx": _write_onnx}
    writers[arguments.to](arguments, model, tokenizer)


def _check_options(arguments):
    for format, names in _OPTIONS.items():
        for name in names:
            if arguments.to != format and getattr(arguments, name, None):
                raise ValueError(f"--{name} is for {format}, and does nothing with --to {arguments.to}: leave it out.")


def _write_saved_model(arguments, model, tokenizer):
    import kerasllm
    from kerasllm import report
    from kerasllm.export.comparison import check

    folder = arguments.folder
    constraints = _constraints(arguments.constraint or ())
    options = {"text": not arguments.ids, "compiled": arguments.compiled, "constraints": constraints}
    kerasllm.export.saved_model(model, tokenizer, folder, **options)
    difference = check(model, tokenizer, folder)
    sees = isinstance(model, kerasllm.models.VisionLanguageModel)
    takes = "token ids and no text" if arguments.ids else f"{'images and ' if sees else ''}text and returns text"
    report.stage(
        f"{folder} takes {takes}, with the model's own tokens and logits (largest difference {difference:.1e})"
    )
    report.next_commands(f"saved_model_cli show --dir {shlex.quote(folder)} --all")


def _constraints(given):
    """Names and regular expressions of NAME=PATTERN."""
    constraints = {}
    for text in given:
        name, is_there, pattern = text.partition("=")
        if not name or not is_there:
            raise ValueError(f"--constraint takes NAME=PATTERN, got {text!r}.")
        constraints[name] = pattern
    return constraints


def _write_litert(arguments, model, tokenizer):
    import kerasllm
    from kerasllm import report

    file, context = arguments.folder, arguments.context
    kerasllm.export.litert(model, tokenizer, file, arguments.quantize, context=context)
    form = arguments.quantize or "float32"
    report.stage(f"{file} is a model of {model.count_params():,} parameters in {form} for LiteRT")
    if file.endswith(".litertlm"):
        report.next_commands(f"litert-lm run {shlex.quote(file)}")


def _write_onnx(arguments, model, tokenizer):
    import kerasllm
    from kerasllm import report

    kerasllm.export.onnx(model, tokenizer, arguments.folder)
    report.stage(
        f"{arguments.folder} is an ONNX graph of {model.count_params():,} parameters in float32, with what "
        "onnxruntime-genai reads beside it"
    )
