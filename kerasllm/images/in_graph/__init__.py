"""What `ImageProcessor` does, as operations of TensorFlow: for SavedModels, which take the bytes of image files.

`decoding` reads files, `resampling` is Pillow's, `processing` does what the processor does between.
"""

from kerasllm.images.in_graph.decoding import decode_image
from kerasllm.images.in_graph.processing import InGraphImageProcessor

__all__ = ["InGraphImageProcessor", "decode_image"]
