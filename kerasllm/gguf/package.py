"""The package `gguf`, which knows the block types of llama.cpp."""


def gguf_package():
    """The module `gguf`, of llama.cpp's authors.

    Raises:
        ImportError: where it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            "GGUF files are read and written by the package gguf, which is not installed: pip install gguf."
        ) from error
    return gguf
