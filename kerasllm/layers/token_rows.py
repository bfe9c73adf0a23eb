"""Rows of an embedding that some tokens have in place of those of the table: all that is trained of a large one.

PEFT calls their ids `trainable_token_indices`. Shapes: B batch, T time, D width, V vocabulary, n tokens with such rows.
"""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("kerasllm")
class TokenRows(keras.layers.Layer):
    """What an embedding gives for some tokens, and what its output layer has for them, in float32.

    Args:
        token_ids: sequence of int, the ids of the tokens.
        tied: bool, whether the output layer has the same rows.
        **options: `name` and `trainable`, as for any Keras layer.
    """

    def __init__(self, token_ids, tied=True, **options):
        super().__init__(**{**options, "dtype": "float32", "autocast": False})
        self.token_ids = [int(index) for index in token_ids]
        self.tied = tied

    def build(self, table_shape):
        V, D = table_shape
        self._places = np.full(V, -1, "int32")  # of the rows, by ids
        self._places[self.token_ids] = np.arange(len(self.token_ids))
        self.rows = self.add_weight((len(self.token_ids), D), "zeros", name="rows")
        self.output_rows = self.rows if self.tied else self.add_weight(self.rows.shape, "zeros", name="output_rows")

    def looked_up(self, token_ids, x, kernel=None):
        """Embeddings (B, T, D) of ids (B, T), with those of its tokens; the `kernel` itself is not needed for it."""
        places = ops.take(self._places, token_ids, axis=0)
        rows = ops.cast(ops.take(self.rows, ops.maximum(places, 0), axis=0), x.dtype)
        return ops.where(ops.expand_dims(places >= 0, -1), rows, x)

    def products(self, hidden, logits, kernel=None):
        """Logits (..., V) of hidden states (..., D), with those of its tokens."""
        of_rows = ops.cast(ops.matmul(hidden, ops.cast(ops.transpose(self.output_rows), hidden.dtype)), logits.dtype)
        return ops.where(self._places >= 0, ops.take(of_rows, np.maximum(self._places, 0), axis=-1), logits)

    def output_table(self, table):
        """A table (V, D) of an output layer, with its rows; and what else is added to it, nothing."""
        return self._placed(table, self.output_rows), None

    def measure(self, embedding):
        """Makes the rows those of the tables of an embedding, with which nothing changes yet."""
        self.rows.assign(ops.take(embedding.embeddings, self.token_ids, axis=0))
        if not self.tied:
            self.output_rows.assign(ops.transpose(ops.take(embedding.reverse_embeddings, self.token_ids, axis=1)))

    def merge_into(self, embedding):
        """Puts the rows into the tables of an embedding."""
        embedding.embeddings.assign(self._placed(embedding.embeddings, self.rows))
        if not self.tied:
            table = self._placed(ops.transpose(embedding.reverse_embeddings), self.output_rows)
            embedding.reverse_embeddings.assign(ops.transpose(table))

    def _placed(self, table, rows):
        indices = np.array(self.token_ids, "int32")[:, None]
        return ops.scatter_update(table, indices, ops.cast(rows, table.dtype))

    def get_config(self):
        return {**super().get_config(), "token_ids": self.token_ids, "tied": self.tied}
