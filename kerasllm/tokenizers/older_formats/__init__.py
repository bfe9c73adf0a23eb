"""The files that tokenizers were kept in before tokenizer.json, read as `tokenizers.Tokenizer`s."""

from kerasllm.tokenizers.older_formats.marian import write_marian
from kerasllm.tokenizers.older_formats.reading import read_tokenizer

__all__ = ["read_tokenizer", "write_marian"]
