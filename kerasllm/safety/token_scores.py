"""What a model says of the tokens of passages, which is all that audits of its memory read.

Shapes: N passages, L their length.
"""

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.losses.likelihood import log_probabilities

_LOGITS_AT_ONCE = 2**24


class TokenScorer:
    """Scores passages by a causal model.

    Args:
        model: a `CausalLM`.

    Raises:
        TypeError: for a model of another kind.
    """

    def __init__(self, model):
        if not getattr(model, "predicts_next", False):
            raise TypeError(f"Memory is looked for in causal models, and a {type(model).__name__} is none.")
        self.model = model
        self._compute = backend.compile_function(self._of_batch, model.variables, xla=False)

    @property
    def longest(self):
        """The most tokens of a passage."""
        return self.model.config.max_length + 1

    def __call__(self, ids):
        """Scores all tokens but the first of each passage.

        Args:
            ids: int (N, L).

        Returns:
            The log-probability of each, float32 (N, L - 1), and whether it is the likeliest, bool (N, L - 1).
        """
        rows = max(1, _LOGITS_AT_ONCE // (self.model.config.vocab_size * ids.shape[1]))
        parts = [self._compute(np.asarray(ids[i : i + rows], "int32")) for i in range(0, len(ids), rows)]
        log_probs, are_likeliest = ([np.asarray(part[k]) for part in parts] for k in (0, 1))
        return np.concatenate(log_probs), np.concatenate(are_likeliest)

    def _of_batch(self, ids):
        labels = ids[:, 1:]
        logits = ops.cast(self.model({"token_ids": ids[:, :-1]}, training=False), "float32")
        found = log_probabilities(labels, logits)[0]
        return found, ops.cast(ops.argmax(logits, axis=-1), "int32") == labels
