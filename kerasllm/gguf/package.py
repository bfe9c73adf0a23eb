"""The package `gguf`, which knows the block types of llama.cpp."""

from kerasllm.extras import optional


def gguf_package():
    """The module `gguf`, of llama.cpp's authors, or ImportError."""
    return optional("gguf", "GGUF files are read and written")
