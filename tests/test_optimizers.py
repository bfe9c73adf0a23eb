"""AdamW beside Keras' own, Muon beside its paper, and the schedules at points worked out by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW, Muon, WarmupStableDecay, orthogonalize, warmup_cosine

SETTINGS = {
    "as it comes": {},
    "Keras' values": {"learning_rate": 0.01, "weight_decay": 0.004, "beta_2": 0.999, "epsilon": 1e-7},
    "no clipping": {"global_clipnorm": None},
    "clipping each": {"global_clipnorm": None, "clipnorm": 0.3},
    "AMSGrad": {"amsgrad": True},
    "averaged weights": {"use_ema": True, "ema_momentum": 0.5},
}


def variables():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "embeddings": (6, 3), "bias": (3,), "gamma": (3,)}
    return [keras.Variable(rng.normal(size=shape), name=name) for name, shape in shapes.items()]


def gradients(step):
    """Dense ones, and for the embeddings a sparse one with a repeated row."""
    rng = np.random.default_rng(step)
    rows = tf.IndexedSlices(tf.constant(rng.normal(size=(3, 3)), "float32"), [5, step % 3, 5], (6, 3))
    dense = [tf.constant(rng.normal(size=shape), "float32") for shape in [(4, 3), (3,), (3,)]]
    return [dense[0], rows, *dense[1:]]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_adamw_equals_keras_step_by_step(settings):
    ours, theirs = variables(), variables()
    schedule = settings.get("learning_rate", warmup_cosine(0.1, 2, 8))
    optimizer = AdamW(**settings | {"learning_rate": schedule})
    defaults = {"weight_decay": 0.1, "beta_2": 0.95, "epsilon": 1e-8, "global_clipnorm": 1.0}
    reference = keras.optimizers.AdamW(**defaults | settings | {"learning_rate": schedule})
    reference.exclude_from_weight_decay(theirs[1:])
    for step in range(6):
        before = [np.array(v) for v in ours]
        optimizer.apply(gradients(step), ours)
        # Dense for Keras, whose clipping takes the norm before it adds up repeated rows.
        reference.apply([tf.convert_to_tensor(gradient) for gradient in gradients(step)], theirs)
        for variable, expected, old in zip(ours, theirs, before, strict=True):
            np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6, err_msg=variable.name)
            assert step == 0 or not np.array_equal(variable, old)
    for state, expected in zip(optimizer.variables, reference.variables, strict=True):
        np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-6, err_msg=state.name)


@pytest.mark.parametrize("limit", [1.0, None])
def test_few_gradients_of_a_graph_are_applied_as_one_vector(limit):
    eager, traced = ((AdamW(0.1, weight_decay=0.0, global_clipnorm=limit), variables()) for _ in range(2))
    traced[0].build(traced[1])

    @tf.function
    def apply(*gradients):
        return traced[0].apply(list(gradients), traced[1])

    for step in range(5):
        given = [tf.convert_to_tensor(gradient) for gradient in gradients(step)]
        if step == 3:  # is no step at all
            before = [np.array(v) for v in (*traced[1], *traced[0].variables)]
            apply(given[0] * math.nan, *given[1:])
            assert all(map(np.array_equal, before, (*traced[1], *traced[0].variables)))
            continue
        apply(*given)
        eager[0].apply(given, eager[1])
        for state, expected in zip((*traced[1], *traced[0].variables), (*eager[1], *eager[0].variables), strict=True):
            np.testing.assert_allclose(state, expected, rtol=1e-6, atol=1e-7, err_msg=state.name)
    ops_of = {op.type for op in apply.get_concrete_function(*given).graph.get_operations()}
    assert "Split" in ops_of or "SplitV" in ops_of


def moved_by_decay(model):
    """The names of the weights that a step without gradients changes."""
    before = model.get_weights()
    model.optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    moved = {
        v.path.partition("/")[2] for v, old in zip(model.weights, before, strict=True) if not np.array_equal(v, old)
    }
    return {path for path in moved if "block_1" not in path}


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_only_matrices_decay_also_after_a_reload(tmp_path, tie_embeddings):
    config = TransformerConfig(11, 2, 8, 2, 16, max_length=6, positions="learned", tie_embeddings=tie_embeddings)
    model = CausalLM(config)
    for v in model.weights:
        v.assign(v + 1.0)
    model.compile(AdamW(0.1))
    model.optimizer.build(model.trainable_variables)
    sublayers = ("attention/query_key_value", "attention/output", "feed_forward/inner", "feed_forward/outer")
    matrices = {f"transformer/block_0/{name}/kernel" for name in sublayers}
    if not tie_embeddings:
        matrices.add("token_embedding/reverse_embeddings")
    assert moved_by_decay(model) == matrices
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, AdamW)
    assert moved_by_decay(loaded) == matrices


def test_a_keras_model_with_adamw_decays_its_kernels_alone(tmp_path):
    model = keras.Sequential([keras.layers.Embedding(5, 4), keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    model(np.zeros((2, 3), "int32"))
    model.compile(AdamW(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        assert {path.rpartition("/")[2] for path in moved_by_decay(each)} == {"kernel"}


def test_warmup_cosine_at_points_worked_out_by_hand():
    rate = warmup_cosine(0.4, warmup_steps=4, total_steps=12, final_fraction=0.1)
    hand = {0: 0.0, 1: 0.1, 3: 0.3, 4: 0.4, 8: 0.22, 12: 0.04, 500: 0.04}  # halfway: (0.4 + 0.04) / 2
    hand[6] = 0.04 + 0.36 * (1 + math.cos(math.pi / 4)) / 2
    assert {step: float(rate(step)) for step in hand} == pytest.approx(hand, abs=1e-7)
    at_once = warmup_cosine(0.4, 0, 10, final_fraction=0.0)
    assert [float(at_once(step)) for step in (0, 5, 10)] == pytest.approx([0.4, 0.2, 0.0], abs=1e-7)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert float(copy(6)) == float(rate(6))


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(10, 10), (-1, 10), (0, 0)])
def test_a_warmup_longer_than_the_run_is_refused(warmup_steps, total_steps):
    with pytest.raises(ValueError, match=rf"`warmup_steps` \({warmup_steps}\) must be at least 0 and less than"):
        warmup_cosine(1e-3, warmup_steps, total_steps)


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)], ids=["square", "wide", "tall"])
def test_orthogonalize_makes_singular_values_alike_and_keeps_the_vectors(shape):
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], min(shape))))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], min(shape))))
    matrix = left @ np.diag(np.geomspace(0.02, 1.0, min(shape))) @ right.T
    result = keras.ops.convert_to_numpy(keras.ops.cast(orthogonalize(tf.constant(matrix, "float32")), "float32"))
    inner = left.T @ result @ right  # diagonal if the vectors are the same
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.05
    assert np.diag(inner).min() > 0.5 and np.diag(inner).max() < 1.3


def newton_schulz(matrix):
    x = np.asarray(matrix, "float64") / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x


def test_muon_moves_kernels_as_its_paper_says_and_the_rest_as_adamw():
    ours, others = variables(), variables()
    optimizer = Muon(0.1, weight_decay=0.2, global_clipnorm=None)
    adamw = AdamW(0.1, weight_decay=0.2, global_clipnorm=None)
    kernel, momentum = np.array(ours[0], "float64"), 0.0
    for step in range(6):
        optimizer.apply(gradients(step), ours)
        adamw.apply(gradients(step), others)
        gradient = gradients(step)[0].numpy()
        momentum = 0.95 * momentum + gradient
        kernel = kernel * (1 - 0.1 * 0.2) - 0.1 * 0.2 * 2.0 * newton_schulz(gradient + 0.95 * momentum)
        np.testing.assert_allclose(ours[0], kernel, atol=6e-3)  # the iteration is in bfloat16
        for variable, expected in zip(ours[1:], others[1:], strict=True):
            np.testing.assert_allclose(variable, expected, rtol=1e-6, err_msg=variable.name)


def test_muon_moves_hidden_kernels_alone_also_after_a_reload(tmp_path):
    model = CausalLM(TransformerConfig(11, 1, 8, 2, 16, max_length=6, positions="learned", tie_embeddings=False))
    model.compile(Muon(0.1, exclude_layers=["feed_forward/outer"]))
    ids = np.arange(14, dtype="int32").reshape(2, 7) % 11
    model.fit(ids[:, :-1], ids[:, 1:], verbose=0)
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        moved = {v.path.partition("/")[2] for v in each.trainable_variables if each.optimizer.is_orthogonalized(v)}
        assert moved == {
            f"transformer/block_0/{name}/kernel"
            for name in ("attention/query_key_value", "attention/output", "feed_forward/inner")
        }
        assert len([v for v in each.optimizer.variables if "velocity" in v.path]) == len(each.weights) - 3


def test_warmup_stable_decay_at_points_worked_out_by_hand():
    rate = WarmupStableDecay(0.4, warmup_steps=4, total_steps=20, decay_fraction=0.5, final_fraction=0.1)
    hand = {0: 0.0, 1: 0.1, 4: 0.4, 10: 0.4, 15: 0.22, 20: 0.04, 99: 0.04}
    assert {step: float(rate(step)) for step in hand} == pytest.approx(hand, abs=1e-7)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert float(copy(15)) == float(rate(15))
    for warmup, total, fraction in [(11, 20, 0.5), (-1, 20, 0.5), (0, 20, 0.0), (0, 20, 1.1)]:
        with pytest.raises(ValueError, match="do not fit into 20 steps"):
            WarmupStableDecay(0.4, warmup, total, fraction)
