"""Export: `saved_model` writes a folder that takes text and returns text, and runs without kerasllm or Keras."""

from kerasllm.export.serving import saved_model

__all__ = ["saved_model"]
