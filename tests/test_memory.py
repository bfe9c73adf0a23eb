"""What saves memory in training, beside its plain twin: the same outputs, losses and gradients, dropout included."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import scramble

from kerasllm import backend
from kerasllm.backend import compiling
from kerasllm.layers import MultiHeadAttention, dot_product, tiles
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig

SIZES = {"vocab_size": 37, "num_layers": 2, "d_model": 16, "num_heads": 4, "dff": 24, "max_length": 64}


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


# Attention in blocks.

ATTENTION = {
    "causal": {"causal": True},
    "both ways": {},
    "a window": {"causal": True, "attention_window": 5},
    "a window both ways": {"attention_window": 3},
    "grouped keys": {"causal": True, "num_kv_heads": 2, "positions": "rotary"},
    "capped": {"causal": True, "attention_soft_cap": 0.7, "attention_scale": 1.3},
    "one key head, normed": {"causal": True, "num_kv_heads": 1, "qk_norm": True},
}


# Queries in a block; from which length on there are tiles; and whether those are of a head, for a core.
WAYS = {
    "one block": (99, 99, True),
    "blocks": (4, 99, True),
    "tiles": (4, 8, True),
    "tiles of all heads": (4, 8, False),
}


def choose(way, monkeypatch):
    queries, long, by_core = WAYS[way]
    monkeypatch.setattr(dot_product, "QUERIES", queries)
    monkeypatch.setattr(backend, "on_cpu", lambda: by_core)
    for name, value in {"LONG": long, "OF_ONE": 4, "OF_ALL": 4, "FEWEST_QUERIES": 5}.items():
        monkeypatch.setattr(tiles, name, value)


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.soak)], ids=["", "XLA"])
def _tiles_by_xla(request, monkeypatch):
    """XLA compiles tiles anew for each kind of attention, which takes longer than all else here."""
    if not request.param:
        monkeypatch.setattr(compiling, "_has_xla", lambda: False)


def attended(layer, inputs, plain=False, in_graph=False):
    """Sines of the output, and gradients of inputs and weights. Scores are there only where attention is plain."""
    tensors = [ops.convert_to_tensor(x, "float32") for x in inputs["tensors"]]
    layer(*tensors)  # or it would have no weights yet
    weights, count = layer.trainable_variables, len(tensors)
    options = {"training": True, "return_attention_scores": plain, **inputs["options"]}

    def sines(*given):
        with keras.StatelessScope(zip(weights, given[count:], strict=True)):
            output = layer(*given[:count], **options)
        return ops.reshape(ops.sin(output[0] if plain else output), (-1,))

    def run(*tensors):
        values, gradients = backend.input_gradients(sines, [*tensors, *(weight.value for weight in weights)])
        return values, *gradients

    run = tf.function(run) if in_graph and backend.IS_TENSORFLOW else run
    return [np.array(ops.convert_to_numpy(part)) for part in run(*tensors)]


@pytest.mark.usefixtures("_tiles_by_xla")
@pytest.mark.parametrize("masked", [False, True], ids=["", "padding and documents"])
@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_attention_with_its_own_gradient_is_attention(options, masked, monkeypatch):
    draw = np.random.default_rng(0)
    layer = MultiHeadAttention(16, 4, **options)
    inputs = {"tensors": [draw.normal(size=(2, 18, 16))], "options": {}}  # the last block is a short one
    if masked:
        documents = np.repeat([[1] * 7 + [2] * 9 + [0] * 2], 2, axis=0)
        mask = np.isin(np.arange(18), [2, 4, 9, 13], invert=True)  # every query still sees a key
        inputs["options"] = {"mask": np.stack([mask, mask | True]), "document_ids": documents}
    expected = attended(layer, inputs, plain=True)
    for way in [*WAYS][masked::2]:
        choose(way, monkeypatch)
        close(attended(layer, inputs, in_graph=way == "tiles of all heads"), expected)


@pytest.mark.usefixtures("_tiles_by_xla")
def test_cross_attention_with_its_own_gradient_is_attention(monkeypatch):
    draw = np.random.default_rng(0)
    layer = MultiHeadAttention(16, 4)
    tensors = [draw.normal(size=(2, 18, 16)), draw.normal(size=(2, 11, 16))]
    inputs = {"tensors": tensors, "options": {"context_mask": np.arange(11) < np.array([[11], [4]])}}
    layer(*tensors)
    expected = attended(layer, inputs, plain=True)
    for way in WAYS:
        choose(way, monkeypatch)
        close(attended(layer, inputs), expected)


@pytest.mark.parametrize("way", [*list(WAYS)[:-1], pytest.param(list(WAYS)[-1], marks=pytest.mark.soak)])
def test_the_gradient_of_attention_with_dropout_is_that_of_its_output(way, monkeypatch):
    choose(way, monkeypatch)
    layer = MultiHeadAttention(8, 2, causal=True, dropout=0.3)
    x, direction = np.random.default_rng(0).normal(size=(2, 1, 18, 8)).astype("float32")
    layer(x)

    def loss(x):
        layer.attention_dropout.seed_generator.state.assign([7, 0])  # the same masks each time
        return ops.reshape(ops.sum(ops.sin(layer(x, training=True))), (1,))

    value, (gradient,) = backend.input_gradients(loss, [ops.convert_to_tensor(x)])
    slope = (ops.convert_to_numpy(gradient) * direction).sum()
    up, down = (float(loss(ops.convert_to_tensor(x + step))[0]) for step in (1e-2 * direction, -1e-2 * direction))
    assert np.isclose(slope, (up - down) / 2e-2, rtol=2e-3)
    assert not np.isclose(float(value[0]), float(ops.sum(ops.sin(layer(x)))))


def test_causal_blocks_leave_out_what_the_mask_hides(monkeypatch):
    choose("blocks", monkeypatch)
    seen = []
    scores = dot_product._scores

    def spy(query, key, *rest):
        seen.append((query.shape[2], key.shape[2]))
        return scores(query, key, *rest)

    monkeypatch.setattr(dot_product, "_scores", spy)
    MultiHeadAttention(16, 4, causal=True)(np.ones((1, 12, 16)), training=True)
    MultiHeadAttention(16, 4, causal=True, attention_window=3)(np.ones((1, 12, 16)), training=True)
    assert seen == [(4, 4), (4, 8), (4, 12), (4, 4), (4, 6), (4, 6)]


# Rematerialisation.

MODELS = {
    "causal": (CausalLM, {}),
    "parallel": (CausalLM, {"parallel": True}),
    "relative positions": (MaskedLM, {"positions": "relative"}),
    "disentangled": (MaskedLM, {"positions": "disentangled", "position_buckets": 4}),
    "sequence to sequence": (Seq2SeqLM, {}),
}


def stepped(kind, remat, dropout, in_graph):
    keras.utils.set_random_seed(3)
    model_class, options = MODELS[kind]
    config = TransformerConfig(**SIZES | {"num_layers": 1}, **options, remat=remat, dropout=dropout)
    model = model_class(config)
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    for layer in model._flatten_layers():
        if layer.name in ("inner", "query_key_value"):  # A loss from inside what is computed again comes out.
            layer.activity_regularizer = keras.regularizers.L2(1e-2)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1e3), run_eagerly=not in_graph)
    ids = draw.integers(0, 37, (3, 12))
    inputs = {"source_ids": ids[:, :7], "target_ids": ids} if model_class is Seq2SeqLM else ids
    loss = model.train_on_batch(inputs, draw.integers(0, 37, (3, 12)))
    return [np.array(loss)] + [new - old for new, old in zip(model.get_weights(), before, strict=True)]


@pytest.mark.parametrize(
    ("kind", "remat"),
    [pytest.param(kind, "block", marks=pytest.mark.soak) for kind in MODELS]
    + [("causal", "attention"), ("causal", "feed_forward")],
)
def test_what_is_computed_again_is_the_same(kind, remat, monkeypatch):
    in_graph = (kind, remat) == ("causal", "block")
    close(stepped(kind, remat, 0.0, in_graph), stepped(kind, None, 0.0, in_graph))
    found = stepped(kind, remat, 0.3, in_graph)
    # The same seeds of dropout, and nothing computed again.
    monkeypatch.setattr(backend, "remat", lambda function, *tensors, **_: function(*tensors))
    close(found, stepped(kind, remat, 0.3, in_graph))


@pytest.mark.soak
def test_layers_that_are_alike_share_one_function(monkeypatch):
    def step_of(num_layers, remat="block"):
        keras.utils.set_random_seed(1)
        windows = tuple(4 if i % 2 else None for i in range(num_layers))
        sizes = SIZES | {"num_layers": num_layers}
        model = scramble(CausalLM(TransformerConfig(**sizes, attention_window=windows, remat=remat, dropout=0.3)))
        weights = [weight.value for weight in model.trainable_variables]
        ids = np.random.default_rng(0).integers(0, 37, (2, 12))

        @tf.function(autograph=False)
        def step():
            with tf.GradientTape() as tape:
                loss = keras.ops.sum(keras.ops.square(model(ids, training=True)))
            return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]

        keras.utils.set_random_seed(1)
        return step.get_concrete_function()

    def products(step):
        graph = step.graph.as_graph_def()
        parts = [graph.node, *(function.node_def for function in graph.library.function)]
        return sum(node.op in ("MatMul", "BatchMatMulV2") for nodes in parts for node in nodes)

    step = step_of(6)
    assert products(step) == products(step_of(4))
    found = step()
    monkeypatch.setattr(backend, "remat", lambda function, *tensors, **_: function(*tensors))
    close(found, step_of(6)())


def test_layers_of_somebody_else_share_nothing():
    class Times(keras.layers.Layer):
        factor = None  # of which the config says nothing

        def call(self, inputs, product, kernel):
            return product * self.factor

    model = scramble(CausalLM(TransformerConfig(**SIZES, remat="block")))
    for i, block in enumerate(model.transformer.blocks):
        adapter = Times(name="times")
        adapter.factor = 2.0 + i
        block.feed_forward.outer.set_adapter(adapter)
    ids = np.random.default_rng(0).integers(0, 37, (2, 12))
    shared = tf.function(lambda ids: model(ids, training=True))(ids)
    np.testing.assert_allclose(shared, model(ids), rtol=1e-5, atol=1e-5)


def test_no_two_dropout_masks_are_drawn_from_one_seed(monkeypatch):
    seeds = []
    dropout = backend.dropout
    monkeypatch.setattr(backend, "dropout", lambda x, rate, seed: seeds.append(seed) or dropout(x, rate, seed))
    choose("blocks", monkeypatch)
    model = CausalLM(TransformerConfig(**SIZES, remat="block", dropout=0.5))
    for _ in range(8):
        model(np.ones((2, 12), "int32"), training=True)
    # Each time: of the input, and in each of two layers of three blocks of attention and of two sublayers.
    assert len(seeds) == len({tuple(np.array(seed)) for seed in seeds}) == 8 * (1 + 2 * (3 + 2))


def test_a_part_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"`remat` must be one of .*, got 'norms'"):
        TransformerConfig(**SIZES, remat="norms")
