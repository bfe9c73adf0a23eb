"""A Transformer without the head that it was pretrained with, for models that put another one there.

Shapes: B batch, T time, D d_model.
"""

import dataclasses

from keras import ops

from kerasllm.layers.composite import check_parts, kernels_of_config
from kerasllm.models.language_model import small_deviation
from kerasllm.models.token_types import TypedModel
from kerasllm.models.weights import weight_names, weights_to_save

POOLINGS = ("mean", "first", "last", "max")


class HeadlessModel(TypedModel):
    """Embeddings and a Transformer; subclasses add a head, of layers whose names begin with "head_".

    Args:
        config: TransformerConfig.
        causal: bool. A token sees itself and earlier ones only, as in a `CausalLM`.
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    settings = ("causal",)
    _has_plain_output_layer = False

    def __init__(self, config, causal=False, **kwargs):
        super().__init__(config, **kwargs)
        self.causal = causal
        deviation = 0.02 if causal else small_deviation(config)
        self.transformer = self._transformer("transformer", config.num_layers, causal, deviation)

    @classmethod
    def from_model(cls, model, *args, quantized=False, **options):
        """The same over what another model has learned: its embeddings and its Transformer, with a new head.

        Args:
            model: a `CausalLM`, a `MaskedLM`, or a model of these without their head. It stays as it is, and shares no
                weights.
            *args, **options: see the class. The head of a classifier is the one that transformers' class of it has,
                where the other model was read from Hugging Face's format, and they say no other.
            quantized: bool. Kernels in few bits stay so, for adapters to be trained beside them; without it they become
                floats, which are trained themselves.

        Returns:
            A new model, not compiled, that sees what the other one saw: both ways, or with `CausalLM` what is behind.

        Example:
            >>> base, tokenizer = kerasllm.load("bert-base-uncased")
            >>> model = kerasllm.models.SequenceClassifier.from_model(base, labels=["good", "bad"])
        """
        config = model.config
        if not isinstance(model, TypedModel):  # which reads no types, whatever its config says
            config = dataclasses.replace(config, num_token_types=0, num_task_types=0)
        causal = model.predicts_next or getattr(model, "causal", False)
        heads = getattr(getattr(model, "origin", None), "heads", {})
        usual = next((heads[part.__name__] for part in cls.__mro__ if part.__name__ in heads), {})
        check_parts(model, plain=True)
        kernels = model.get_config().get("kernel_layers", {})
        with kernels_of_config(kernels if quantized else {}):
            made = cls(config, *args, causal=causal, dtype=model.dtype_policy, **{**usual, **options})
        arrays = weights_to_save(model, plain=not quantized)
        body = {name: weight for name, weight in weight_names(made).items() if not name.startswith("head_")}
        for name, weight in body.items():
            weight.assign(arrays[name]())
        if hasattr(model, "origin"):
            made.origin = model.origin
        if getattr(model, "base", None) is not None and (quantized or not kernels):
            made.base = model.base.under_a_new_head(body)
        return made

    def _embedding_layer(self):
        layer = super()._embedding_layer()
        layer.tie_weights = True  # There is no output layer, which would have a table of its own.
        return layer

    def _build_body(self):
        self._build_embeddings()
        self.transformer.build((None, None, self.config.embedding_width))

    def _hidden_states(self, inputs, padding_mask, position_ids, training):
        return self.transformer(
            self._embeddings_of(inputs),
            mask=padding_mask,
            document_ids=inputs.get("document_ids"),
            position_ids=position_ids,
            training=training,
        )

    def output_layer(self):
        raise TypeError(f"A {type(self).__name__} makes no logits of tokens of a vocabulary.")

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.settings}}


def pooled(x, pooling, inputs, padding_mask):
    """One vector (B, D) of each text, of hidden states (B, T, D).

    Args:
        x: float (B, T, D).
        pooling: "first" or "last", the vector of that token; "mean" or "max", of all.
        inputs: dict that may have "document_ids", 0 where there is padding.
        padding_mask: bool (B, T), False where there is padding, or None.
    """
    documents = inputs.get("document_ids")
    is_real = padding_mask if documents is None else ops.not_equal(documents, 0)
    if pooling == "first":
        return x[:, 0]
    if is_real is None:
        return {"last": lambda: x[:, -1], "mean": lambda: ops.mean(x, 1), "max": lambda: ops.max(x, 1)}[pooling]()
    if pooling == "last":
        places = ops.where(is_real, ops.arange(ops.shape(x)[1], dtype="int32")[None], 0)
        return ops.take_along_axis(x, ops.max(places, axis=1)[:, None, None], axis=1)[:, 0]
    if pooling == "max":
        return ops.max(ops.where(is_real[..., None], x, -float("inf")), axis=1)
    weight = ops.cast(is_real, x.dtype)[..., None]
    return ops.sum(x * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1)
