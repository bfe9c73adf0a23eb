"""Text to token ids and back.

`Tokenizer.train` makes a vocabulary from documents, `Tokenizer.load` takes one from disk, ours or any Hugging Face
`tokenizer.json`, or what came before that (older_formats/); chat_template.py makes ids of chats. Next: `kerasllm.data`
turns documents and a tokenizer into batches.
"""

from kerasllm.tokenizers.chat_formats import with_chat_format, with_image_token
from kerasllm.tokenizers.conversion import as_tokenizer
from kerasllm.tokenizers.tokenizer import Tokenizer

__all__ = ["Tokenizer", "as_tokenizer", "with_chat_format", "with_image_token"]
