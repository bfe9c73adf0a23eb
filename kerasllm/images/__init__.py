"""Images in: files as arrays, and arrays as a vision encoder takes them.

`read_image` decodes a file, `ImageProcessor` makes pixel values of it as published models have them, `ImageTokens` says
what stands for an image in a text, `read_video` takes frames of a video, and `chat_prompt` makes a prompt of a chat in
which they are shown.
"""

from kerasllm.images.chats import chat_prompt
from kerasllm.images.decoding import image_size, read_image
from kerasllm.images.placeholders import ImageTokens
from kerasllm.images.processor import ImageProcessor, ProcessedImage
from kerasllm.images.tiles import PanAndScan, Tiling
from kerasllm.images.video import Video, read_video

__all__ = [
    "ImageProcessor",
    "ImageTokens",
    "PanAndScan",
    "ProcessedImage",
    "Tiling",
    "Video",
    "chat_prompt",
    "image_size",
    "read_image",
    "read_video",
]
