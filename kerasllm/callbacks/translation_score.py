"""How a model's translations get better while it trains."""

import keras

from kerasllm.evaluation import bleu
from kerasllm.generation import translate


class TranslationScore(keras.callbacks.Callback):
    """Adds BLEU on held-out pairs to the logs at the end of each epoch, as `val_bleu`.

    Keras' history, and the callbacks after this one, then have it too. With a moving average of weights, put
    `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)` before this one, so that it scores the average.

    Args:
        pairs: list of (source, target), both str.
        tokenizer: the model's `Tokenizer`, or the pair (source, target).
        num_beams: int; 1 is greedy, which is fastest.

    Raises:
        ValueError: if there are no pairs.

    Example:

    >>> score = kerasllm.callbacks.TranslationScore(validation_pairs[:200], tokenizer)
    >>> history = model.fit(dataset, epochs=10, callbacks=[score]).history["val_bleu"]
    """

    def __init__(self, pairs, tokenizer, num_beams=1):
        super().__init__()
        if not pairs:
            raise ValueError("There are no pairs to score; give at least one (source, target).")
        self._sources, self._targets = zip(*pairs, strict=True)
        self._tokenizer = tokenizer
        self._num_beams = num_beams

    def on_epoch_end(self, epoch, logs=None):
        translations = translate(self.model, self._tokenizer, self._sources, self._num_beams)
        if logs is not None:
            logs["val_bleu"] = bleu(translations, self._targets).score
