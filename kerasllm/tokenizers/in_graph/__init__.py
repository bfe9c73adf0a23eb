"""The tokenizer as TensorFlow ops, for SavedModels and `tf.data`: nothing of Python runs, nothing is remembered.

`tokenizer.py` reads what a `kerasllm.tokenizers.Tokenizer` does and puts the pieces together: `encoders.py` for whole
models, `splitting.py` for words, `merging.py` for byte-pair merges, `decoders.py` for the way back.
"""

from kerasllm.tokenizers.in_graph.tokenizer import InGraphTokenizer

__all__ = ["InGraphTokenizer"]
