"""What all our language models share: a config, and the layers that it says."""

import contextlib
import dataclasses
import warnings

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.block_options import BlockOptions
from kerasllm.layers.composite import Composite
from kerasllm.layers.embedding import ReversibleEmbedding
from kerasllm.layers.taps import tap
from kerasllm.layers.transformer import Transformer
from kerasllm.losses import OutputLayer
from kerasllm.models.config import TransformerConfig
from kerasllm.training import TokenModel
from kerasllm.vocabulary import within

# What models of other libraries do by themselves, and ours with their tokenizers.
_METHODS_ELSEWHERE = {
    "generate": "kerasllm.generate",
    "stream": "kerasllm.stream",
    "chat": "kerasllm.chat",
    "translate": "kerasllm.translate",
    "save_pretrained": "kerasllm.huggingface.save",
    "save_to_preset": "kerasllm.save",
}


def small_deviation(config):
    """The standard deviation of kernels by Nguyen and Salazar 2019, https://arxiv.org/abs/1910.05895: GPT-2's 0.02 near
    its width, and more for narrower models, which learn where to look sooner."""
    return (2 / (5 * config.d_model)) ** 0.5


def scaled_normal():
    """The same by how many numbers go into each kernel, which a few pixels of a patch may be."""
    return keras.initializers.VarianceScaling(2 / 5, "fan_in", "untruncated_normal")


def as_dict(inputs, name="token_ids"):
    """Inputs by name: ids alone have the one that is given."""
    return inputs if isinstance(inputs, dict) else {name: inputs}


class _UnwrittenZeros(keras.initializers.Zeros):
    """Zeros that take no memory before others come in their place."""

    def __call__(self, shape, dtype=None):
        return backend.given_away(backend.unwritten(shape, dtype or keras.config.floatx()))


class LanguageModel(Composite, TokenModel):
    """A `keras.Model` made from a `TransformerConfig`.

    Its inputs are embedded by `embed`, and what reads embeddings does the rest. They have names: those that end in
    "_ids" are int (B, T), one for each token. A model with more inputs is a subclass that adds to `optional_inputs` and
    overrides `embed`.

    Args:
        config: TransformerConfig.
        random_weights: bool. False begins with zeros, in less time and memory: for weights that are to be loaded.
        **kwargs: `name` and `dtype`, as for any Keras layer.
    """

    settings = ()  # names of what the class is called with beside its config
    has_encoder = False
    predicts_next = True  # a token, from those before it
    needed_inputs = ("token_ids",)
    optional_inputs = ("document_ids",)
    _main_ids = "token_ids"  # those that have logits
    _embeddings = {"embeddings": ("token_ids",)}

    def __init__(self, config, random_weights=True, **kwargs):
        if not isinstance(config, TransformerConfig):
            raise TypeError(f"{type(self).__name__} needs a TransformerConfig, got {type(config).__name__}.")
        if config.num_encoder_layers and not self.has_encoder:
            raise ValueError(
                f"A {type(self).__name__} has no encoder, got num_encoder_layers={config.num_encoder_layers}: that is "
                "for a Seq2SeqLM."
            )
        if config.embedding_size and self.predicts_next:
            raise ValueError(
                f"A {type(self).__name__} has embeddings as wide as its layers, got embedding_size="
                f"{config.embedding_size}: that is for a MaskedLM, a classifier or a TextEmbedder."
            )
        if config.num_layer_groups and self.has_encoder:
            raise ValueError(
                f"A {type(self).__name__} shares no layers, got num_layer_groups={config.num_layer_groups}: that is "
                "for a model of one stack of them."
            )
        super().__init__(**kwargs)
        self.config = config
        self._screen.max_length = None if config.positions == "relative" else config.max_length
        self._random_weights = random_weights
        self.token_embedding = self._embedding_layer()
        self.output_bias = None

    @property
    def remat(self):
        """What training computes again in the backward pass in place of keeping it: see `TransformerConfig`. It may be
        set, before `compile`: `model.remat = "block"` for a model that was loaded."""
        return self.config.remat

    @remat.setter
    def remat(self, remat):
        self.config = dataclasses.replace(self.config, remat=remat)  # which checks it
        for layer in self._flatten_layers():
            if isinstance(layer, Transformer):
                layer.set_remat(remat)

    def _labels(self, x, y, sample_weight):
        """Labels and weights as they were given; without any, each token's label is the one that follows it."""
        if y is not None:
            return y, sample_weight
        if not self.predicts_next:
            raise ValueError(
                f"A {type(self).__name__} learns to name hidden tokens, so it needs labels: "
                "kerasllm.data.masked_lm_dataset hides tokens and gives them."
            )
        if self._main_ids not in self._ids_of(x):
            raise ValueError("Embeddings do not say which token follows which, so they need labels beside them.")
        warnings.warn("No labels were given, so the model learns the token that follows each.", stacklevel=2)
        ids, _ = self._ids_of(x)[self._main_ids]
        documents = x.get("document_ids", ops.ones_like(ids)) if isinstance(x, dict) else ops.ones_like(ids)
        follows = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != 0)
        last = ((0, 0), (0, 1))
        return ops.pad(ids[:, 1:], last), ops.pad(ops.cast(follows, "float32"), last)

    def _normal(self, deviation):
        if self._random_weights:
            return keras.initializers.RandomNormal(stddev=deviation)
        return _UnwrittenZeros()

    def _scaled(self):
        """Normal, for kernels of an encoder of pictures: see `scaled_normal`."""
        return scaled_normal() if self._random_weights else _UnwrittenZeros()

    def _embedding_initializer(self):
        """Normal; what `scale_embeddings` multiplies then has the variance 1."""
        return self._normal(self.config.d_model**-0.5 if self.config.scale_embeddings else 0.02)

    def _embedding_layer(self):
        """The embedding of token ids, which is the output layer too. With `scale_embeddings` it starts small, as it is
        multiplied later."""
        config = self.config
        layer = ReversibleEmbedding(
            config.vocab_size,
            config.embedding_width,
            tie_weights=config.tie_embeddings,
            embeddings_initializer=self._embedding_initializer(),
            reverse_dtype=self.compute_dtype,  # Keras' own choice is float32, in mixed precision too.
            logit_soft_cap=config.logit_soft_cap,
            name="token_embedding",
            dtype=self.dtype_policy,
        )
        layer.supports_masking = True  # It ignores masks; without this Keras warns that it does.
        return layer

    def _transformer(self, name, num_layers, causal, deviation=0.02):
        """A stack of the config's blocks, with kernels of that standard deviation."""
        config = self.config
        return Transformer(
            num_layers,
            config.d_model,
            config.num_heads,
            config.dff,
            causal=causal,
            kernel_initializer=self._normal(deviation),
            # GPT-2's rule: the residual stream keeps its size, however many layers add to it.
            residual_initializer=self._normal(deviation * (2 * num_layers) ** -0.5),
            name=name,
            dtype=self.dtype_policy,
            input_norm=config.embedding_norm,
            embedding_size=config.embedding_size,
            num_layer_groups=config.num_layer_groups,
            **BlockOptions.of(config),
        )

    @property
    def _vocab_size(self):
        return self.config.vocab_size

    def _ids_of(self, x):
        ids = x.get("token_ids") if isinstance(x, dict) else x
        return {} if ids is None else {"token_ids": (ids, self.config.vocab_size)}

    def embed(self, inputs):
        """What the model makes of inputs before its first layer, one vector for each token; positions join later.

        A subclass may override it to read other inputs too: of a call, it gets them all as a dict. It is also called on
        parts of a text, as decoding with a cache embeds the prompt and then each new token.

        Args:
            inputs: int (B, T), token ids, or a dict of inputs, as in a call.

        Returns:
            float (B, T, D). Changed or not, it may stand in the place of what it was made of:
            `model({"embeddings": x})`.

        Example:
            >>> class TypedLM(kerasllm.models.CausalLM):
            ...     optional_inputs = ("document_ids", "token_type_ids")
            ...
            ...     def build(self, shape):
            ...         self.type_embedding = keras.layers.Embedding(2, self.config.d_model, dtype=self.dtype_policy)
            ...         self.type_embedding.build(shape)
            ...         super().build(shape)
            ...
            ...     def embed(self, inputs):
            ...         types = inputs.get("token_type_ids", 0 * inputs["token_ids"])
            ...         return super().embed(inputs) + self.type_embedding(types)
        """
        return self._embed_ids(as_dict(inputs)["token_ids"], self.token_embedding)

    def check_prompt(self, prompt):
        """Refuses a text to be continued whose inputs, a dict, do not fit each other."""

    def _embed_ids(self, ids, embedding):
        if self._is_stepping:  # nothing is learned of such a batch, but some devices stop at it
            ids = within(ids, embedding.input_dim)
        x = embedding(ids)
        return x * self.config.d_model**0.5 if self.config.scale_embeddings else x

    def _embeddings_of(self, inputs, name="embeddings", **options):
        """Those of that name that are given, or what `embed` makes."""
        x = inputs.get(name)
        if x is None:
            return self.embed(inputs, **options)
        if len(x.shape) != 3 or x.shape[-1] != self.config.embedding_width:
            raise ValueError(
                f"`{name}` are vectors as `embed` makes them, (B, T, {self.config.embedding_width}), got the shape "
                f"{tuple(x.shape)}."
            )
        return x

    def _build_output_bias(self):
        self.output_bias = self.add_weight((self.config.vocab_size,), initializer="zeros", name="output_bias")

    def logits(self, x):
        """The output layer: hidden states (B, T, D) -> float (B, T, V)."""
        logits = self.token_embedding(x, reverse=True)
        logits = logits if self.output_bias is None else logits + ops.cast(self.output_bias, logits.dtype)
        return tap(logits, self, "logits")

    def output_layer(self):
        """The same as a `losses.OutputLayer`, for what makes logits itself, of some tokens at a time."""
        table, is_trained, added = self.token_embedding.output_table()
        weights = backend.as_tensor(table)
        bias = None if self.output_bias is None else backend.as_tensor(self.output_bias)
        return OutputLayer(weights, bias, self.config.logit_soft_cap, is_trained, added)

    @property
    def _has_plain_output_layer(self):
        """Whether weights say all about it: those of a quantized one have scales too."""
        return self.token_embedding.quantization_mode is None

    def export(self, *args, input_signature=None, **kwargs):
        """As Keras' own, with token ids for inputs: without this they would be floats.

        `kerasllm.export.saved_model` exports a tokenizer with the model, so that text goes in and comes out.
        """
        if input_signature is None:
            input_signature = [self._export_signature()]
        return super().export(*args, input_signature=input_signature, **kwargs)

    def _export_signature(self):
        return keras.InputSpec(shape=(None, None), dtype="int32", name="token_ids")

    def get_config(self):
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        trainable = {**({} if self.trainable else {"trainable": False}), **self._parts_config()}
        return {"name": self.name, "dtype": dtype, "config": self.config.to_dict(), **trainable}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["config"] = TransformerConfig.from_dict(config["config"])
        return super().from_config(config)

    def __getattr__(self, name):  # for what the class does not have
        if hasattr(keras.Model, "__getattr__"):  # On torch it is where a module's parts are looked for.
            with contextlib.suppress(AttributeError):
                return super().__getattr__(name)
        instead = _METHODS_ELSEWHERE.get(name)
        advice = f": {instead}(model, tokenizer, …) does that" if instead else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{advice}")
