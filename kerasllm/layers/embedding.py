"""The embedding of token ids and the output layer in one: the one place where its tables are read."""

import keras
from keras import ops

from kerasllm.layers.adaptable import Adaptable


class ReversibleEmbedding(Adaptable, keras.layers.ReversibleEmbedding):
    """As Keras' own, whose name it has for `.keras` files; an adapter, `NamedAdapters` of `LowRankTables` or
    `TokenRows`, changes its tables."""

    def call(self, inputs, reverse=False):
        member = self._member
        if member is None:
            return super().call(inputs, reverse=reverse)
        if not reverse:
            return member.looked_up(inputs, super().call(inputs), lambda: self.embeddings)
        kernel = ops.transpose(self.embeddings) if self.tie_weights else self.reverse_embeddings
        if self.reverse_dtype is not None:
            inputs, kernel = ops.cast(inputs, self.reverse_dtype), ops.cast(kernel, self.reverse_dtype)
        logits = member.products(inputs, ops.matmul(inputs, kernel), lambda: self.reverse_embeddings)
        cap = self.logit_soft_cap
        return logits if cap is None else cap * ops.tanh(logits / cap)

    def output_table(self):
        """What the output layer multiplies with: its table (V, D), whether that is trained, and a pair (D, r), (V, r)
        whose product is added to it, or None."""
        weight = self.embeddings if self.tie_weights else self.reverse_embeddings
        table = weight if self.tie_weights else ops.transpose(weight)
        member = self._member
        if member is None:
            return table, weight.trainable, None
        changed, added = member.output_table(table)
        return changed, weight.trainable or (member.trainable and changed is not table), added

    @property
    def _member(self):
        return None if self.adapter is None else self.adapter.member(self.adapter.active)

    def _adapter_shapes(self):
        return ((self.input_dim, self.output_dim),)

    def quantize(self, *args, **kwargs):
        if self.adapter is not None:
            raise ValueError(f"{self.path} has an adapter, so it cannot be quantized.")
        return super().quantize(*args, **kwargs)
