"""What models read besides tokens that says of what kind each is: BERT's sentences A and B, ERNIE's tasks.

Shapes: B batch, T time, D d_model.
"""

import keras

from kerasllm.models.language_model import LanguageModel, as_dict
from kerasllm.vocabulary import within


class TypedModel(LanguageModel):
    """A `LanguageModel` that reads "token_type_ids" and "task_type_ids" too, where its config has types of them."""

    predicts_next = False
    optional_inputs = ("document_ids", "token_type_ids", "task_type_ids")
    _embeddings = {"embeddings": ("token_ids", "token_type_ids", "task_type_ids")}

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.token_type_embedding = self._type_embedding("token_type", config.num_token_types)
        self.task_type_embedding = self._type_embedding("task_type", config.num_task_types)

    def _build_embeddings(self):
        for embedding in (self.token_embedding, self.token_type_embedding, self.task_type_embedding):
            if embedding is not None:
                embedding.build((None, None))

    def embed(self, inputs):
        """What the model makes of inputs before its first layer: the vectors of tokens, of token types and of tasks.

        Args:
            inputs: int (B, T), token ids, or a dict of inputs, as in a call.

        Returns:
            float (B, T, D), for `model({"embeddings": x})`.
        """
        inputs = as_dict(inputs)
        x = self._add_types(super().embed(inputs), "token_type", self.token_type_embedding, inputs)
        return self._add_types(x, "task_type", self.task_type_embedding, inputs)

    def _ids_of(self, x):
        ids = super()._ids_of(x)
        for kind in ("token_type", "task_type"):
            count = getattr(self.config, f"num_{kind}s")
            if isinstance(x, dict) and count and x.get(f"{kind}_ids") is not None:
                ids[f"{kind}_ids"] = x[f"{kind}_ids"], count
        return ids

    def _type_embedding(self, kind, count):
        if not count:
            return None
        return keras.layers.Embedding(
            count,
            self.config.embedding_width,
            embeddings_initializer=self._embedding_initializer(),
            name=f"{kind}_embedding",
            dtype=self.dtype_policy,
        )

    def _add_types(self, x, kind, embedding, inputs):
        ids = inputs.get(f"{kind}_ids")
        if embedding is not None:
            if ids is None:
                ids = keras.ops.zeros(keras.ops.shape(x)[:2], "int32")
            return x + embedding(within(ids, embedding.input_dim) if self._is_stepping else ids)
        if ids is not None:
            raise ValueError(
                f"This model has no {kind.replace('_', ' ')}s: leave {kind}_ids out, or make its config with "
                f"num_{kind}s=2."
            )
        return x
