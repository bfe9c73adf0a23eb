"""The embedding of token ids and the output layer in one: the one place where its tables are read."""

import keras
from keras import ops

from kerasllm.layers.adaptable import Adaptable


class ReversibleEmbedding(Adaptable, keras.layers.ReversibleEmbedding):
    """As Keras' own, whose name it has for `.keras` files; an adapter, `NamedAdapters` of `TokenRows`, changes rows."""

    def call(self, inputs, reverse=False):
        rows = self._rows
        if rows is None:
            return super().call(inputs, reverse=reverse)
        if not reverse:
            return rows.looked_up(inputs, super().call(inputs))
        kernel = ops.transpose(self.embeddings) if self.tie_weights else self.reverse_embeddings
        if self.reverse_dtype is not None:
            inputs, kernel = ops.cast(inputs, self.reverse_dtype), ops.cast(kernel, self.reverse_dtype)
        logits = rows.products(inputs, ops.matmul(inputs, kernel))
        cap = self.logit_soft_cap
        return logits if cap is None else cap * ops.tanh(logits / cap)

    def output_table(self):
        """What the output layer multiplies with, (V, D), and whether it is trained."""
        weight = self.embeddings if self.tie_weights else self.reverse_embeddings
        table = weight if self.tie_weights else ops.transpose(weight)
        rows = self._rows
        if rows is None:
            return table, weight.trainable
        return rows.output_table(table), weight.trainable or rows.trainable

    @property
    def _rows(self):
        return None if self.adapter is None else self.adapter.member(self.adapter.active)

    def _adapter_shapes(self):
        return ((self.input_dim, self.output_dim),)

    def quantize(self, *args, **kwargs):
        if self.adapter is not None:
            raise ValueError(f"{self.path} has rows of its own for some tokens, so it cannot be quantized.")
        return super().quantize(*args, **kwargs)
