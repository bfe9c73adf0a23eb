"""`kerasllm audit`: what is unfair, unsafe or kept word for word in a model; a file for each kind of audit."""

import importlib


def run(arguments):
    importlib.import_module(f"kerasllm.cli.audit_{arguments.kind}").run(arguments)
