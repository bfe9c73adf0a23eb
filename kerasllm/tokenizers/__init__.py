"""Text to token ids and back.

`Tokenizer.train` makes a vocabulary from documents, `Tokenizer.load` takes one from disk, ours or any Hugging Face
`tokenizer.json`. Next: `kerasllm.data` turns documents and a tokenizer into batches.
"""

from kerasllm.tokenizers.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
