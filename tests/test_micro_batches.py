"""A batch in parts, and a batch on two devices: the same update as the whole batch at once."""

import contextlib
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_losses_of_ones_own import SequenceLoss

from kerasllm import backend
from kerasllm.layers import tiles
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import CausalLM, Seq2SeqLM, TransformerConfig
from kerasllm.optimizers import AdamW, Muon

SIZES = {"vocab_size": 37, "num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 16}


def make(model_class=CausalLM, **options):
    model = model_class(TransformerConfig(**SIZES, **options))
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


def batch(model_class=CausalLM, rows=7):
    """Rows with very different numbers of tokens that count, the fourth with none."""
    draw = np.random.default_rng(1)
    ids, labels = draw.integers(0, 37, (2, rows, 11))
    weight = (np.arange(11) < np.array([11, 1, 5, 0, 9, 2, 7, 11])[:rows, None]).astype("float32")
    inputs = {"source_ids": ids[:, :7], "target_ids": ids} if model_class is Seq2SeqLM else ids
    return inputs, labels, weight


def trained(model_class, loss, micro_batches, steps=3, **optimizer):
    model = make(model_class)
    # SGD with clipping shows the size of gradients, and AdamW with an average the order of what happens in an update.
    in_graph = micro_batches > 1
    model.compile(optimizer.pop("kind")(**optimizer), loss, micro_batches=micro_batches, run_eagerly=not in_graph)
    logs = [model.train_on_batch(*batch(model_class), return_dict=True) for _ in range(steps)]
    return logs, model.get_weights(), [np.array(variable) for variable in model.optimizer.variables]


OPTIMIZERS = {
    "SGD, clipped": {"kind": keras.optimizers.SGD, "learning_rate": 1.0, "global_clipnorm": 0.01},
    "AdamW, averaged": {"kind": AdamW, "learning_rate": 0.01, "epsilon": 1e-3, "use_ema": True, "ema_momentum": 0.5},
}


@pytest.mark.parametrize(
    ("model_class", "optimizer", "chunk_size"),
    [
        (CausalLM, "SGD, clipped", 5),
        (CausalLM, "AdamW, averaged", None),
        pytest.param(Seq2SeqLM, "AdamW, averaged", 5, marks=pytest.mark.soak),
    ],
)
def test_parts_of_a_batch_make_the_update_of_the_whole(model_class, optimizer, chunk_size):
    whole = trained(model_class, TokenCrossentropy(0.1), 1, **OPTIMIZERS[optimizer])
    parts = trained(model_class, TokenCrossentropy(0.1, chunk_size=chunk_size), 3, **OPTIMIZERS[optimizer])
    for expected, found in zip(whole[0], parts[0], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    for expected, found in zip([*whole[1], *whole[2]], [*parts[1], *parts[2]], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
def test_fit_takes_batches_of_any_number_of_rows():
    model = make()
    model.compile(AdamW(0.01), micro_batches=4)
    ids, labels, weight = batch(rows=7)
    losses = model.fit(ids, labels, sample_weight=weight, batch_size=5, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_differs_from_part_to_part_and_from_step_to_step(monkeypatch):
    seeds = []
    dropout = backend.dropout

    def spy(x, rate, seed):
        tf.py_function(lambda seed: seeds.append(tuple(seed.numpy().tolist())), [seed], [])
        return dropout(x, rate, seed)

    monkeypatch.setattr(backend, "dropout", spy)
    model = make(dropout=0.5, remat="attention")
    model.compile(keras.optimizers.SGD(0.0), micro_batches=2)
    ids, labels, _ = batch(rows=2)
    for _ in range(3):
        model.train_on_batch(ids, labels)
    # Two steps or more of two parts: of the input, of attention, once more in the backward pass, and of both sublayers.
    assert len(seeds) == 3 * 2 * 5
    assert len(set(seeds)) == 3 * 2 * 4


def test_losses_of_layers_count_once():
    def moved(micro_batches, regularizer):
        model = make()
        kernel = model.transformer.blocks[0].feed_forward.inner.kernel
        before, kernel.regularizer = kernel.numpy(), regularizer
        model.compile(keras.optimizers.SGD(1.0), micro_batches=micro_batches, run_eagerly=micro_batches == 1)
        model.train_on_batch(*batch())
        return kernel.numpy() - before, before

    plain, kernel = moved(1, None)
    for micro_batches in (1, 3):
        regularised, _ = moved(micro_batches, keras.regularizers.L2(0.1))
        np.testing.assert_allclose(regularised - plain, -0.2 * kernel, rtol=1e-3, atol=1e-5)


@pytest.mark.soak
def test_every_saver_at_once_in_float16_is_the_plain_step_in_float32(monkeypatch):
    for name, value in {"LONG": 8, "OF_ONE": 4, "FEWEST_QUERIES": 4}.items():
        monkeypatch.setattr(tiles, name, value)
    results = []
    for dtype, options, micro_batches, chunk_size in [
        ("float32", {}, 1, None),
        ("mixed_float16", {"remat": "block"}, 3, 5),
    ]:
        model = CausalLM(TransformerConfig(**SIZES, **options), dtype=dtype)
        model.set_weights(make().get_weights())
        loss, in_graph = TokenCrossentropy(chunk_size=chunk_size), micro_batches > 1
        model.compile(keras.optimizers.SGD(1.0), loss, micro_batches=micro_batches, run_eagerly=not in_graph)
        for _ in range(3):
            logs = model.train_on_batch(*batch(), return_dict=True)
        results.append((logs["loss"], model.get_weights()))
    assert results[1][0] == pytest.approx(results[0][0], rel=0.01)
    for found, expected in zip(results[1][1], results[0][1], strict=True):
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_micro_batches_are_saved_with_the_model(tmp_path):
    model = make()
    model.compile("sgd", micro_batches=2)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").get_compile_config()["micro_batches"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 0}, "`micro_batches` must be a positive integer, got 0"),
        (
            {"micro_batches": 2, "loss": "sparse_categorical_crossentropy"},
            "needs a loss that says what it is a mean over",
        ),
        ({"micro_batches": 2, "weighted_metrics": ["accuracy"]}, "Metrics need the logits of a whole batch"),
    ],
)
def test_what_cannot_be_taken_in_parts_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make().compile("sgd", **options)


# Each device gets half of the rows, so that their numbers of tokens differ; devices can only be split in a new process.
def updates(kind, scope):
    """Losses and state after two steps of an optimizer. A second process runs this text."""
    with scope:
        adamw = {"epsilon": 1e-3, "use_ema": True, "global_clipnorm": 0.01}
        model = make()
        model.compile(
            AdamW(0.01, **adamw) if kind == "adamw" else Muon(0.01, epsilon=1e-3),
            (TokenCrossentropy if kind == "adamw" else SequenceLoss)(0.1, chunk_size=5),
            micro_batches=2 if kind == "adamw" else 1,
        )
        ids, labels, weight = batch(rows=8)
        history = model.fit(ids, labels, sample_weight=weight, batch_size=8, epochs=2, shuffle=False, verbose=0)
        state = [*model.weights, *model.optimizer.variables]
        return history.history["loss"], [keras.ops.convert_to_numpy(v).tolist() for v in state]


ON_DEVICES = """
import contextlib, json, keras, numpy as np
from kerasllm import backend
from kerasllm.losses import LogProbabilityLoss, TokenCrossentropy
from kerasllm.models import CausalLM, Seq2SeqLM, TransformerConfig
from kerasllm.optimizers import AdamW, Muon
SIZES = {sizes}
{functions}
{split}
print("RESULT", json.dumps(updates({kind!r}, scope)))
"""
SPLITS = {
    "tensorflow": """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
scope = strategy.scope()
""",
    "jax": """
import jax
assert len(jax.devices()) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
scope = contextlib.nullcontext()
""",
}


MORE = pytest.mark.soak


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        pytest.param("tensorflow", "adamw", marks=MORE),
        pytest.param("jax", "muon", marks=MORE),
        pytest.param("tensorflow", "muon", marks=MORE),
        pytest.param("jax", "adamw", marks=MORE),
    ],
)
def test_two_devices_make_the_update_of_one(backend, kind, run_python, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    functions = "\n".join(map(inspect.getsource, (make, batch, SequenceLoss, updates)))
    out = run_python(ON_DEVICES.format(sizes=SIZES, functions=functions, split=SPLITS[backend], kind=kind), backend)
    losses, state = json.loads(out.rpartition("RESULT ")[2])
    expected_losses, expected_state = updates(kind, contextlib.nullcontext())
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    tolerance = 2e-3 if kind == "muon" else 1e-5  # Muon rounds to bfloat16
    for found, expected in zip(state, expected_state, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance)
