"""kerasllm: train, measure and ship Transformer language models in Keras.

Start with `layers.Transformer` inside any Keras model, or with `models.CausalLM`; `data` makes the
`tf.data` pipelines they train on, and `generate` makes them talk.
"""

import importlib as _importlib
import sys as _sys
from pathlib import Path as _Path

__version__ = "0.1.0"

_MODULES = (
    "adapters", "layers", "losses", "metrics", "optimizers", "training", "models", "tokenizers", "data", "generation",
    "evaluation", "callbacks", "export", "tasks", "settings", "recipe", "runs", "benchmark", "huggingface", "keras_hub",
    "gguf", "quantization", "dialogue", "reinforcement", "interpret", "privacy", "safety", "serving", "planning",
    "distribution", "selection", "vision", "images", "preparation",
)  # fmt: skip
_FUNCTIONS = {
    "save": "runs",
    "load": "runs",
    "generate": "generation",
    "stream": "generation",
    "chat": "generation",
    "stream_chat": "generation",
    "translate": "generation",
    "fill_mask": "generation",
    "classify": "generation",
    "embed": "generation",
}


def __getattr__(name):
    """Loads what is heavy or rarely needed on first use."""
    if name in _MODULES:
        return _importlib.import_module(f"kerasllm.{name}")
    if name in _FUNCTIONS:
        return getattr(_importlib.import_module(f"kerasllm.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'kerasllm' has no attribute {name!r}")


def __dir__():
    """What completion shows."""
    return sorted({*(name for name in globals() if name.startswith("__")), *_MODULES, *_FUNCTIONS})


# `keras.models.load_model` finds only classes that were imported, so these load at once. The command
# line is the exception: it answers `--help` before Keras and TensorFlow take their seconds to load.
# (The first of `argv` in `orig_argv` is the program: the script `kerasllm`, or the word behind `python -m`.)
if _Path(next(iter(_sys.orig_argv[-len(_sys.argv) :]), "")).name not in ("kerasllm", "kerasllm.exe"):
    from kerasllm.garbage import uncollected as _uncollected

    with _uncollected(stays="keras" not in _sys.modules):  # else there may be models that are to go
        from kerasllm import layers, losses, metrics, models, optimizers, privacy, quantization  # noqa: F401
