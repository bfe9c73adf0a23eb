"""`kerasllm convert`: a model from one format to another."""

import shlex
from pathlib import Path

from kerasllm.cli.merge import load_merged
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder
from kerasllm.tasks import task_of


def run(arguments):
    folder = arguments.folder
    check_new_folder(folder)
    if arguments.to == "saved-model":
        from kerasllm.cli import export

        return export.run(arguments)
    start_keras()
    import kerasllm
    from kerasllm import report
    from kerasllm.huggingface.saving import AUDIT

    is_run = (Path(arguments.model) / kerasllm.runs.MANIFEST).is_file()
    usual = "gguf" if Path(folder).suffix.lower() == kerasllm.gguf.SUFFIX else "huggingface" if is_run else "run"
    to = arguments.to or usual
    if to == "gguf":
        model, tokenizer = load_merged(arguments.model)
        kerasllm.gguf.save(model, tokenizer, folder, dtype=arguments.dtype)
        what = f"a GGUF file of {arguments.dtype}"
    elif to == "run":
        model, tokenizer = kerasllm.load(arguments.model)
        kerasllm.save(model, tokenizer, folder)
        what = "a run folder"
    else:
        model, tokenizer = load_merged(arguments.model)
        card = Path(arguments.model) / AUDIT  # also of a model whose adapters are now in its kernels
        kerasllm.huggingface.save(model, tokenizer, folder, card if card.is_file() else None)
        what = "a folder in Hugging Face's format"
    kind = type(model).__name__
    report.stage(f"{folder} is {what} with a {kind} of {model.count_params():,} parameters and its tokenizer")
    report.next_commands(f"kerasllm {task_of(model).command.format(shlex.quote(folder))}")
