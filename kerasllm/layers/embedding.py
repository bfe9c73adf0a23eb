"""The embedding of token ids and the output layer in one: the one place where its tables are read."""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.adaptable import Adaptable
from kerasllm.layers.dense import kernel_made_for


class ReversibleEmbedding(Adaptable, keras.layers.ReversibleEmbedding):
    """As Keras' own, whose name it has for `.keras` files; an adapter, `NamedAdapters` of `LowRankTables` or
    `TokenRows`, changes its tables.

    Attributes:
        kernel_layer: what `replace_kernel` was given, or None.
    """

    kernel_layer = None

    def build(self, input_shape=None):
        kernel_layer = kernel_made_for(self) if self.tie_weights and not self.built else None
        if kernel_layer is None:
            super().build(input_shape)
            return
        kernel_layer.build((self.output_dim, self.input_dim))
        self.kernel_layer, self.built = kernel_layer, True

    def call(self, inputs, reverse=False):
        member = self._member
        if member is None and self.kernel_layer is None:
            output = super().call(inputs, reverse=reverse)
            return output if reverse else backend.keep_in_rows(output, of_columns=True)
        if not reverse:
            x = super().call(inputs) if self.kernel_layer is None else self._rows(inputs)
            return x if member is None else member.looked_up(inputs, x, lambda: self.embeddings)
        if self.reverse_dtype is not None:
            inputs = ops.cast(inputs, self.reverse_dtype)
        logits = self._products(inputs)
        if member is not None:
            logits = member.products(inputs, logits, lambda: self.reverse_embeddings)
        cap = self.logit_soft_cap
        return logits if cap is None else cap * ops.tanh(logits / cap)

    def _rows(self, token_ids):
        return ops.cast(self.kernel_layer.outputs_at(token_ids), self.compute_dtype)

    def _products(self, inputs):
        if self.kernel_layer is not None:
            return self.kernel_layer.matmul(inputs)
        kernel = ops.transpose(self.embeddings) if self.tie_weights else self.reverse_embeddings
        return ops.matmul(inputs, kernel if self.reverse_dtype is None else ops.cast(kernel, self.reverse_dtype))

    def output_table(self):
        """What the output layer multiplies with: its table (V, D), whether that is trained, and a pair (D, r), (V, r)
        whose product is added to it, or None."""
        weight = self.embeddings if self.tie_weights else self.reverse_embeddings
        is_trained = self.kernel_layer is None and weight.trainable
        table = weight if self.tie_weights else ops.transpose(weight)
        member = self._member
        if member is None:
            return table, is_trained, None
        changed, added = member.output_table(table)
        return changed, is_trained or (member.trainable and changed is not table), added

    def replace_kernel(self, kernel_layer):
        """Puts another form of the table in its place, for good, as `Dense.replace_kernel` does.

        Args:
            kernel_layer: as there, of the transposed table (D, V), with `outputs_at(token_ids)` too: its columns, float
                (..., D).

        Raises:
            ValueError: if the layer is not built, is quantized or has LoRA by Keras' own, or has two tables.
        """
        self._check_takes("another form of its table")
        if self.lora_enabled or not self.tie_weights:
            raise ValueError(f"{self.path} has LoRA by `enable_lora`, or two tables: only one can be in another form.")
        table = self.embeddings
        with self._open_name_scope():
            kernel_layer.build((self.output_dim, self.input_dim))
        kernel_layer.assign(ops.transpose(table))
        if self.kernel_layer is None:
            self._untrack_variable(self._embeddings)
            super(keras.layers.Layer, self).__delattr__("_embeddings")
        self._exchange("kernel_layer", kernel_layer)

    @property
    def embeddings(self):
        return super().embeddings if self.kernel_layer is None else ops.transpose(self.kernel_layer.kernel)

    def save_own_variables(self, store):
        if self.kernel_layer is None:
            super().save_own_variables(store)

    def load_own_variables(self, store):
        if self.kernel_layer is None:
            super().load_own_variables(store)

    @property
    def _member(self):
        return None if self.adapter is None else self.adapter.member(self.adapter.active)

    def _adapter_shapes(self):
        return ((self.input_dim, self.output_dim),)

    def quantize(self, *args, **kwargs):
        if self.adapter is not None or self.kernel_layer is not None:
            raise ValueError(f"{self.path} has an adapter or another form of its table, so it cannot be quantized.")
        return super().quantize(*args, **kwargs)
