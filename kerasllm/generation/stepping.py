"""Where the logits of the next token come from: a key/value cache where that is safe, else the whole text anew.

Shapes: B batch, L places for prompt and continuation, P prompt (padded on the left), V vocab.
"""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers import FeedForward, MixtureOfExperts, Transformer, TransformerBlock, taps
from kerasllm.layers.cache import begun_with, join_heads, split_heads
from kerasllm.layers.positions import BIASED
from kerasllm.models import CausalLM
from kerasllm.models.shapes import (
    context_length,
    length_dependent_rotations,
    log_of_probabilities,
    needs_endings,
    positions_until,
)
from kerasllm.training.inputs import is_per_token

MOST_AS_A_WHOLE = 12  # layers of which XLA compiles the loop at once; more take it too long
# Layers that do the same to each token, whatever stands around it.
TOKENWISE = (
    keras.layers.Embedding,
    keras.layers.ReversibleEmbedding,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    FeedForward,
    MixtureOfExperts,
)


def get_stepper(model, cached=None):
    """The fastest way to step through a model that gives the same logits as calling it.

    Args:
        model: a `CausalLM`, or any Keras model from ids (B, T) to logits (B, T, V) that is causal.
        cached: True to insist on a cache, False to do without; None takes one where it is safe.

    Raises:
        ValueError: if a cache is insisted on where it is not safe.
    """
    if cached is not False:
        if isinstance(model, CausalLM) and type(model).call is CausalLM.call:
            return CachedStepper(model, model.init_cache, causal_lm_forward(model), takes_buffers=is_deep(model))
        layers = chain_of_layers(model)
        if layers is not None and all(map(_keeps_tokens_apart, layers)):
            return _chain_stepper(model, layers)
        if cached:
            raise ValueError(
                f"{model.name} cannot be decoded with a cache: that needs a CausalLM, or a chain of layers around a "
                f"causal Transformer that each act on one token alone."
            )
    if getattr(model, "sees_prompts_whole", False):
        raise ValueError(
            f"{model.name} sees a prompt otherwise than the text behind it, which only a cache tells apart: leave out "
            "cached=False."
        )
    return PlainStepper(model)


def chain_of_layers(model):
    """The layers of a Sequential model, or of a Functional one of the same shape; None for any other."""
    if isinstance(model, keras.Sequential):
        return model.layers
    if not isinstance(model, keras.Function) or not type(model).__module__.startswith("keras."):
        return None
    first, *layers = model.layers
    if len(model.inputs) != 1 or len(model.outputs) != 1 or not isinstance(first, keras.layers.InputLayer):
        return None
    try:
        for before, layer in zip([first, *layers], layers, strict=False):
            if layer.input is not before.output:
                return None
    except (AttributeError, ValueError):  # A layer that is used twice has no one input.
        return None
    return layers if layers and layers[-1].output is model.outputs[0] else None


def _keeps_tokens_apart(layer):
    if isinstance(layer, Transformer | TransformerBlock):
        return layer.causal
    if isinstance(layer, keras.layers.LayerNormalization | keras.layers.RMSNormalization):
        return layer.axis in (-1, 2, [-1], [2], (-1,), (2,)) and type(layer) in TOKENWISE
    return type(layer) in TOKENWISE


def is_deep(model):
    """Whether a `CausalLM` is one of many layers, of which XLA compiles runs, and not the whole loop."""
    transformer = model.transformer
    is_plain = transformer.positions not in (*BIASED, "disentangled") and not length_dependent_rotations(model)
    return is_plain and transformer.num_layers > MOST_AS_A_WHOLE


def causal_lm_forward(model, last_only=True):
    """The `forward` of a `CachedStepper` for a `CausalLM`; or else the logits of all tokens, (B, T, V)."""
    in_layers = set(map(id, model.transformer.weights))
    outside = [weight for weight in model.weights if id(weight) not in in_layers]

    def forward(inputs, cache, index, positions, visible):
        options = {"training": False, "last_only": last_only}
        x, cache = model.hidden_states(inputs, visible, positions, cache, index, **options)
        if backend.compiles_shared():
            return backend.shared(model.logits, x, variables=outside, alike="logits"), cache
        return model.logits(x), cache

    return forward


def _chain_stepper(model, layers):
    to_logits = log_of_probabilities(model)
    caching = [layer for layer in layers if isinstance(layer, Transformer | TransformerBlock)]
    mask_zero = any(getattr(layer, "mask_zero", False) for layer in layers)

    def init_cache(batch_size, length, full):
        return [layer.init_cache(batch_size, length, full=full) for layer in caching]

    def forward(inputs, cache, index, positions, visible):
        old, new = iter(cache), []
        x = inputs["token_ids"] if caching else inputs["token_ids"][:, -1:]
        for layer in layers:
            if isinstance(layer, Transformer | TransformerBlock):
                x, layer_cache = layer(
                    x,
                    mask=visible,
                    position_ids=positions,
                    cache=next(old),
                    cache_index=index,
                    last_only=layer is caching[-1],  # What follows looks at one token alone.
                    training=False,
                )
                new.append(layer_cache)
            else:
                x = layer(x)
        return to_logits(x), new

    return CachedStepper(model, init_cache, forward, mask_zero)


class CachedStepper:
    """Reads the prompt once, and then one token a step; the text anew where it has become so long that rotary positions
    turn all of it otherwise.

    Args:
        model: what is stepped through.
        init_cache: function (batch_size, length, full) -> cache.
        forward: function (inputs, a dict with "token_ids" (B, T), cache, index, position_ids (B, T), visible (B, L)) ->
            (logits (B, 1, V) of the last token, cache).
        mask_zero: bool. The model hides token 0, as `Embedding(mask_zero=True)` asks.
        takes_buffers: bool. The cache may be in `backend.buffers`.

    Attributes:
        loop: a function in the place of `loop.decode`, or None.
        variables: those that it reads beside the model's.
        ahead: int, places behind the last token that it writes to.
    """

    loop, variables, ahead = None, (), 0

    def __init__(self, model, init_cache, forward, mask_zero=False, takes_buffers=False):
        self.init_cache = init_cache
        self.forward = forward
        self._longest = context_length(model)
        self._rotations = length_dependent_rotations(model)
        self._mask_zero = mask_zero
        self._takes_buffers = takes_buffers

    @property
    def in_runs(self):
        """Whether XLA compiles runs of layers, in place of the whole loop."""
        return self._takes_buffers and self.uses_xla and backend.IS_TENSORFLOW and backend.on_cpu()

    @property
    def uses_xla(self):
        return not taps.listeners()  # which may want to be told what is computed

    def start(self, inputs, padding, prompt_length, prefix=(), first=0, rows=None):
        """Logits (B, V) for the place after the prompt, and the state after the prompt.

        Args:
            inputs: dict from `buffers.fill_buffers`, prompts in the first `prompt_length` places.
            padding: int32, of each prompt, how many places are padding.
            prompt_length: int scalar.
            prefix: from `read`, a beginning that the texts share.
            first: int, the first place that is read; what stands before it is in the prefix.
            rows: int32 (B,) or None, the prompt that each row begins with, where that is not its own.
        """
        tokens = inputs["token_ids"]
        B, L = ops.shape(tokens)
        cache = self._empty_cache(B, L)
        if first:
            cache = begun_with(cache, prefix, padding, first)
        columns = ops.arange(first, prompt_length, dtype="int32")
        prompt = {name: x[:, first:prompt_length] if is_per_token(name) else x for name, x in inputs.items()}
        logits, cache = self._step(prompt, cache, first, tokens, padding, columns)
        if rows is None:
            return logits, cache
        cache = keras.tree.map_structure(lambda part: ops.take(part, rows, axis=0), split_heads(cache, B))
        return ops.take(logits, rows, axis=0), join_heads(cache) if self.uses_xla else cache

    def read(self, token_ids):
        """A cache with all of one text, int32 (1, Q), for other texts to begin with."""
        Q = token_ids.shape[1]
        positions = ops.arange(Q, dtype="int32")[None]
        cache = self.init_cache(1, Q, full=True)
        return self.forward(
            {"token_ids": token_ids}, cache, 0, positions, self._visible(token_ids, ops.zeros((1,), "int32"))
        )[1]

    @property
    def turns_anew(self):
        """Whether what was read is read again as a text grows."""
        return bool(self._rotations)

    def cache_of(self, state, batch_size):
        """The cache in a state, as layers know it."""
        return split_heads(backend.read_buffers(state) if backend.are_buffers(state) else state, batch_size)

    def logits(self, cache, inputs, padding, index):
        """Logits (B, V) for place `index`, and the state after the token before it: what is not per token has been read
        with the prompt."""
        tokens = inputs["token_ids"]
        if self._rotations:
            changes = ops.stack([ops.any(rotation.changes_at(index - padding)) for rotation in self._rotations])
            cache = ops.cond(ops.any(changes), lambda: self._read_again(inputs, padding, index), lambda: cache)
        last = {name: ops.take(x, [index - 1], axis=1) for name, x in inputs.items() if is_per_token(name)}
        if not backend.are_buffers(cache):
            cache = split_heads(cache, ops.shape(tokens)[0])
        return self._step(last, cache, index - 1, tokens, padding, ops.reshape(index - 1, (1,)))

    def _read_again(self, inputs, padding, index):
        """The cache, filled with a text that ends before place `index`; what stands from there on is not yet seen."""
        tokens = inputs["token_ids"]
        B, L = ops.shape(tokens)
        columns = ops.minimum(ops.arange(L, dtype="int32"), index - 1)
        return self._step(inputs, self._empty_cache(B, L), 0, tokens, padding, columns)[1]

    def _empty_cache(self, batch_size, length):
        # A text that is read again is written from its beginning to the end of the cache, past what there is of it.
        return self.init_cache(batch_size, length, full=bool(self._rotations))

    def _step(self, inputs, cache, index, tokens, padding, columns):
        positions = self._positions(columns, padding)
        logits, cache = self.forward(inputs, cache, index, positions, self._visible(tokens, padding))
        return logits[:, 0], self._kept(cache)

    def _kept(self, cache):
        """A cache as the loop carries it."""
        return join_heads(cache) if self.uses_xla and not backend.are_buffers(cache) else cache

    def _positions(self, columns, padding):
        positions = ops.maximum(columns[None] - padding[:, None], 0)
        if self._longest is None:
            return positions
        return ops.minimum(positions, self._longest - 1)  # A row that has ended is carried along, past it if need be.

    def _visible(self, tokens, padding):
        real = ops.arange(ops.shape(tokens)[1], dtype="int32")[None] >= padding[:, None]
        return ops.logical_and(real, tokens != 0) if self._mask_zero else real


class PlainStepper:
    """Calls the model on the whole text at every step: right for any causal model, and slow."""

    uses_xla = in_runs = False
    loop, variables, ahead = None, (), 0

    turns_anew = True

    def __init__(self, model):
        self._model = model
        self._longest = context_length(model)
        self._needs_endings = needs_endings(model)
        self._to_logits = log_of_probabilities(model)

    def start(self, inputs, padding, prompt_length, prefix=(), first=0, rows=None):
        """As `logits`, for the place after the prompt; all of it is read."""
        logits, state = self.logits((), inputs, padding, prompt_length)
        return logits if rows is None else ops.take(logits, rows, axis=0), state

    def logits(self, state, inputs, padding, index):
        """Logits (B, V) for place `index`. The model sees texts that begin at the left; what stands to the right of
        a place cannot change a causal model's logits there."""
        L = ops.shape(inputs["token_ids"])[1]
        columns = (ops.arange(L, dtype="int32")[None] + padding[:, None]) % L

        def from_left(x):
            return ops.take_along_axis(x, columns, axis=1)[:, : self._longest]

        inputs = {name: from_left(x) if is_per_token(name) else x for name, x in inputs.items()}
        ids = inputs["token_ids"]
        length = ops.shape(ids)[1]
        last = ops.minimum(index - 1 - padding, length - 1)
        options = {"position_ids": positions_until(last, length)} if self._needs_endings else {}
        outputs = self._model(inputs if len(inputs) > 1 else ids, training=False, **options)
        logits = self._to_logits(outputs)
        return ops.take_along_axis(logits, last[:, None, None], axis=1)[:, 0], state
