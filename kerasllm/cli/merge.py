"""`kerasllm merge`: a tuned model as an ordinary run folder, with what its adapter learned in the kernels."""

import shlex

from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder
from kerasllm.tasks import task_of


def run(arguments):
    check_new_folder(arguments.folder)
    start_keras()
    import kerasllm
    from kerasllm import report

    model, tokenizer = kerasllm.load(arguments.model, quantize=False)
    if not kerasllm.adapters.names(model):
        raise ValueError(f"{arguments.model} has no adapter to merge; `kerasllm tune` makes runs that have one.")
    kerasllm.adapters.merge(model)
    kerasllm.save(model, tokenizer, arguments.folder)
    report.stage(f"{arguments.folder} is a run folder of {model.count_params():,} parameters, without adapters")
    report.next_commands(f"kerasllm {task_of(model).command.format(shlex.quote(arguments.folder))}")


def load_merged(path):
    """A model and its tokenizer, for formats that have no place for adapters: the one in use is in the kernels."""
    import kerasllm

    model, tokenizer = kerasllm.load(path, quantize=False)
    if kerasllm.adapters.names(model):
        kerasllm.adapters.merge(model)
    return model, tokenizer
