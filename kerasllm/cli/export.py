"""`kerasllm export`: a SavedModel, read back and held against the model it was made from."""

import os
import shlex

from kerasllm.cli.merge import load_merged
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder


def run(arguments):
    check_new_folder(arguments.folder)  # before a model is loaded
    os.environ["KERAS_BACKEND"] = "tensorflow"  # A run folder knows no backend, and a SavedModel is TensorFlow's.
    start_keras()
    import kerasllm
    from kerasllm import report
    from kerasllm.export.comparison import check

    model, tokenizer = load_merged(arguments.model)
    kerasllm.export.saved_model(model, tokenizer, arguments.folder, text=not arguments.ids)
    difference = check(model, tokenizer, arguments.folder)
    takes = "token ids and no text" if arguments.ids else "text and returns text"
    report.stage(
        f"{arguments.folder} takes {takes}, with the model's own tokens and logits (largest difference "
        f"{difference:.1e})"
    )
    report.next_commands(f"saved_model_cli show --dir {shlex.quote(arguments.folder)} --all")
