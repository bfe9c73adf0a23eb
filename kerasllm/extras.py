"""Packages that not everybody has installed."""

import importlib
import sys


def optional(modules, task):
    """What a package that not everybody has installed imports as.

    Args:
        modules: str, "package" or "package.module" to import, or several with spaces between.
        task: str, what it does, for the sentence: "GGUF files are read and written".

    Raises:
        ImportError: where it is not installed.
    """
    names = modules.split()
    package = names[0].partition(".")[0]
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        distribution = package.replace("_", "-")
        raise ImportError(
            f"{task} by the package {distribution}, which is not installed: pip install {distribution}."
        ) from error
    return sys.modules[package]
