"""Export: `saved_model` writes a folder that takes text and returns text, and runs without kerasllm or Keras; `litert`
a file for phones and other small machines, `onnx` a folder for onnxruntime-genai; `image_saved_model` a folder that
takes the bytes of image files."""

from kerasllm.export.litertlm import litert
from kerasllm.export.onnx_folder import onnx
from kerasllm.export.seeing import image_saved_model
from kerasllm.export.serving import saved_model

__all__ = ["image_saved_model", "litert", "onnx", "saved_model"]
