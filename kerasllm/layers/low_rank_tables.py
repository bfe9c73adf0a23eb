"""Low-rank adapters of an embedding and of its output layer, as `low_rank.py` has them of dense layers.

The table of an embedding (V, D) is the kernel of ids, one of V each. Where the output layer has the same table, it
changes with it. Shapes: B batch, T time, D width, V vocabulary, r rank.
"""

import dataclasses

import keras
from keras import ops

from kerasllm.layers.low_rank import LowRank


class _LowRankTable(LowRank):
    """That of a table (V, D), where rows by ids stand for products. It begins as LoRA's authors have it."""

    @staticmethod
    def _initializers(_):
        return "zeros", keras.initializers.RandomNormal(stddev=1.0)

    def call(self, token_ids, product, kernel):
        down, up = self.matrices()
        product = ops.cast(product, "float32") + ops.matmul(ops.take(down, token_ids, axis=0), up)
        return product * self.lengths(kernel(), down, up) if self.kind == "dora" else product


@keras.saving.register_keras_serializable("kerasllm")
class LowRankTables(keras.layers.Layer):
    """What is added to the tables of an embedding, in float32.

    Args:
        table: `Slice`, or a dict of its fields, of what is added to the table of ids; None for nothing.
        head: `Slice` or dict, of what is added to the output layer, where it has a table of its own; None for nothing.
        kind: "lora", "rslora" or "dora".
        tied: bool, whether the output layer has the table of ids.
        **options: `name` and `trainable`, as for any Keras layer.
    """

    def __init__(self, table=None, head=None, kind="lora", tied=False, **options):
        super().__init__(**{**options, "dtype": "float32", "autocast": False})
        self.kind, self.tied = kind, tied
        self.table = None if table is None else _LowRankTable([table], kind, name="embeddings")
        self.head = None if head is None else LowRank([head], kind, name="reverse_embeddings")

    def build(self, table_shape):
        V, D = table_shape
        if self.table is not None:
            self.table.build((None, V), (None, D))
        if self.head is not None:
            self.head.build((None, D), (None, V))

    def looked_up(self, token_ids, x, kernel):
        """Embeddings (B, T, D) of ids (B, T), from those of the table, which the function `kernel` gives, (V, D)."""
        return x if self.table is None else ops.cast(self.table(token_ids, x, kernel=kernel), x.dtype)

    def products(self, hidden, logits, kernel):
        """Logits (..., V) of hidden states (..., D), from those of the output layer; `kernel` gives its, (D, V)."""
        if self.head is not None:
            return ops.cast(self.head(hidden, logits, kernel=kernel), logits.dtype)
        if self.table is None or not self.tied:
            return logits
        narrow, wide = self._of_output()
        added = ops.matmul(ops.matmul(ops.cast(hidden, "float32"), narrow), ops.transpose(wide))
        return ops.cast(ops.cast(logits, "float32") + added, logits.dtype)

    def output_table(self, table):
        """What the output layer multiplies with in place of a table (V, D): that, or its rows in other lengths, and a
        pair (D, r), (V, r), whose product is added to it; None where nothing is."""
        if self.head is None and not (self.tied and self.table is not None):
            return table, None
        narrow, wide = self._of_output()
        if self.kind != "dora":
            return table, (narrow, wide)
        lengths = self.head.lengths(ops.transpose(table), narrow, ops.transpose(wide))[:, None]
        return ops.cast(table, "float32") * lengths, (narrow, wide * lengths)

    def measure(self, embedding):
        """Makes magnitudes those of the tables of an embedding, with which nothing changes yet."""
        if self.table is not None:
            self.table.measure(embedding.embeddings)
        if self.head is not None:
            self.head.measure(embedding.reverse_embeddings)

    def merge_into(self, embedding):
        """Puts what is added into the tables of an embedding."""
        for member, table in ((self.table, embedding.embeddings), (self.head, _of(embedding))):
            if member is not None:
                table.assign(ops.cast(member.merged(table), table.dtype))

    def _of_output(self):
        if self.head is not None:
            down, up = self.head.matrices()
            return down, ops.transpose(up)
        down, up = self.table.matrices()
        return ops.transpose(up), down

    def get_config(self):
        slices = {"table": self.table and self.table.slices[0], "head": self.head and self.head.slices[0]}
        slices = {name: part and dataclasses.asdict(part) for name, part in slices.items()}
        return {**super().get_config(), **slices, "kind": self.kind, "tied": self.tied}


def _of(embedding):
    return None if embedding.tie_weights else embedding.reverse_embeddings
