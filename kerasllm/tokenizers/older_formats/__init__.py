"""The files that tokenizers were kept in before tokenizer.json, read as `tokenizers.Tokenizer`s."""

from kerasllm.tokenizers.older_formats.reading import read_tokenizer

__all__ = ["read_tokenizer"]
