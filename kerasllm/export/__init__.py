"""Export: `saved_model` writes a folder that takes text and returns text, and runs without kerasllm or Keras; `litert`
a file for phones and other small machines, `onnx` a folder for onnxruntime-genai."""

from kerasllm.export.litertlm import litert
from kerasllm.export.onnx_folder import onnx
from kerasllm.export.serving import saved_model

__all__ = ["litert", "onnx", "saved_model"]
