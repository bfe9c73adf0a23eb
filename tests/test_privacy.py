"""Differential privacy: gradients of single examples, noise, chance, and the account of them."""

import math

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm import privacy
from kerasllm.data.poisson import poisson_draw, poisson_rows

B, T, V = 6, 8, 40
# One example after the other, by Keras' own loss and no code of ours but the model. Adam's first momentum is a tenth of
# the gradient.
SUMS = """
import numpy as np, keras, kerasllm

B, T, V, CLIP = 6, 8, 40, {clip}
keras.utils.set_random_seed(1)
config = kerasllm.models.TransformerConfig(
    vocab_size=V, num_layers=1, d_model=16, num_heads=2, dff=24, max_length=T, positions="learned"
)
model = kerasllm.models.CausalLM(config)
if {adapted}:
    kerasllm.adapters.add(model, rank=2)
ids = np.random.default_rng(0).integers(0, V, (B, T + 1)).astype("int32")
x, y, weight = ids[:, :-1], ids[:, 1:], np.ones((B, T), "float32")
weight[1, 3:] = 0  # a short one
weight[4:] = 0     # and two that are not there
variables = model.trainable_variables
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

def of_row(x, y, weight):
    return loss(y, model(x, training=True), weight) / keras.ops.sum(weight)

def gradients_of(*row):
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values, *row):
            with keras.StatelessScope(state_mapping=zip(variables, values)):
                return of_row(*row)

        return jax.jit(jax.grad(stateless))([v.value for v in variables], *row)
    if keras.backend.backend() == "torch":
        import torch

        return torch.autograd.grad(of_row(*row), [v.value for v in variables])
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = of_row(*row)
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(value, [v.value for v in variables])]

expected, norms = [0.0] * len(variables), []
for row in range(4):
    gradients = [np.array(g) for g in gradients_of(x[row : row + 1], y[row : row + 1], weight[row : row + 1])]
    norms.append(np.sqrt(sum((g**2).sum() for g in gradients)))
    expected = [e + g * min(1, CLIP / norms[-1]) for e, g in zip(expected, gradients)]
assert min(norms) < CLIP < max(norms), norms
optimizer = kerasllm.privacy.DPAdamW(0.0, noise_multiplier=0.0, clip_norm=CLIP, batch_size=1, beta_1=0.9)
if {at_once}:  # as on accelerators
    kerasllm.backend.per_example.on_cpu = lambda: False
model.compile(optimizer, micro_batches=2 if {at_once} else 1)
model.train_on_batch(x, y, weight)
found = [np.array(momentum) / 0.1 for momentum in optimizer._momentums]
print(max(np.abs(a - b).max() for a, b in zip(expected, found, strict=True)))
"""


@pytest.mark.parametrize(
    ("backend", "clip", "adapted", "at_once"),
    [
        ("tensorflow", 2.5, False, False),
        pytest.param("tensorflow", 0.45, True, False, marks=pytest.mark.soak),
        pytest.param("jax", 2.5, False, False, marks=pytest.mark.soak),
        pytest.param("jax", 2.5, False, True, marks=pytest.mark.soak),
        pytest.param("torch", 2.5, False, False, marks=pytest.mark.soak),
    ],
)
def test_sums_are_those_of_examples_one_by_one(run_python, backend, clip, adapted, at_once):
    worst = run_python(SUMS.format(clip=clip, adapted=adapted, at_once=at_once), backend=backend)
    assert float(worst.split()[-1]) < 1e-5


def small_model(optimizer, seed=0, **options):
    keras.utils.set_random_seed(seed)
    model = kerasllm.models.CausalLM(
        kerasllm.models.TransformerConfig(vocab_size=V, num_layers=1, d_model=16, num_heads=2, dff=24, max_length=T)
    )
    model.compile(optimizer, **options)
    return model


def rows(count, seed=0):
    ids = np.random.default_rng(seed).integers(0, V, (count, T + 1)).astype("int32")
    return ids[:, :-1], ids[:, 1:], np.ones((count, T), "float32")


def test_noise_is_as_wide_as_it_says_and_a_function_of_seed_and_step():
    optimizer = privacy.DPAdamW(noise_multiplier=1.5, clip_norm=0.5, batch_size=10, seed=7)
    zeros = [keras.ops.zeros((300, 300)), keras.ops.zeros((200,))]
    optimizer.build([keras.Variable(zero) for zero in zeros])
    first, second = (np.array(noise) for noise in optimizer._noisy_means(zeros))
    assert first.std() == pytest.approx(1.5 * 0.5 / 10, rel=0.02) and abs(first.mean()) < 1e-3
    assert not np.allclose(first[0, :200], second)  # of each variable its own
    np.testing.assert_array_equal(first, np.array(optimizer._noisy_means(zeros)[0]))
    optimizer.iterations.assign_add(1)
    assert abs(np.corrcoef(first.ravel(), np.array(optimizer._noisy_means(zeros)[0]).ravel())[0, 1]) < 0.02


def test_a_key_is_drawn_where_no_seed_is_given():
    keys = set()
    for _ in range(2):
        optimizer = privacy.DPAdamW(noise_multiplier=1.0, clip_norm=1.0)
        optimizer.build([keras.Variable(np.zeros(2))])
        keys.add(tuple(np.array(optimizer._key)))
        assert privacy.DPAdamW.from_config(optimizer.get_config()).seed is None
    assert len(keys) == 2


def test_a_row_that_is_no_number_counts_as_nothing():
    x, y, weight = rows(4)
    kept = small_model(privacy.DPAdamW(noise_multiplier=0.0, clip_norm=1.0, batch_size=4), run_eagerly=True)
    kept.train_on_batch(x[:3], y[:3], weight[:3])
    model = small_model(privacy.DPAdamW(noise_multiplier=0.0, clip_norm=1.0, batch_size=4), run_eagerly=True)
    weight[3] = np.inf
    model.train_on_batch(x, y, weight)
    for expected, found in zip(kept.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_would_break_the_promise_is_refused():
    optimizer = privacy.DPAdamW(noise_multiplier=1.0, clip_norm=1.0)
    with pytest.raises(ValueError, match="mean over tokens or sequences"):
        small_model(optimizer, loss=kerasllm.losses.DPO())
    with pytest.raises(ValueError, match="mean over tokens or sequences"):
        small_model(optimizer, loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="need a whole batch"):
        small_model(optimizer, metrics=[kerasllm.metrics.Perplexity()])
    with pytest.raises(ValueError, match="global_clipnorm"):
        privacy.DPAdamW(noise_multiplier=1.0, clip_norm=1.0, global_clipnorm=1.0)
    other = keras.Sequential([keras.layers.Dense(2)])
    other.compile(privacy.DPAdamW(noise_multiplier=1.0, clip_norm=1.0), loss="mse", run_eagerly=True)
    with pytest.raises(TypeError, match="got those of a whole batch"):
        other.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0)


REFERENCE = {"examples": 60_000, "batch_size": 256, "epochs": 60, "delta": 1e-5}


def test_epsilon_is_what_is_published():
    assert round(privacy.epsilon(noise_multiplier=1.1, **REFERENCE), 2) == 3.01
    assert privacy.epsilon(noise_multiplier=0, **REFERENCE) == math.inf
    whole = {"examples": 100, "batch_size": 100, "steps": 10, "delta": 1e-5}  # Gaussian: orders / (2 sigma^2)
    expected = min(10 * order / 18 + math.log(1e5) / (order - 1) for order in range(2, 100))
    assert privacy.epsilon(noise_multiplier=3.0, **whole) == pytest.approx(expected)


def test_the_tighter_account_and_the_noise_for_a_promise():
    accounting = pytest.importorskip("dp_accounting")
    by_losses = privacy.epsilon(noise_multiplier=1.1, accountant="pld", **REFERENCE)
    assert 2.38 <= by_losses < 2.40
    accountant = accounting.rdp.RdpAccountant(orders=[2, 9, 64])
    accountant.compose(accounting.PoissonSampledDpEvent(0.01, accounting.GaussianDpEvent(0.8)), 1000)
    known = {order: 1000 * privacy.accounting._divergence(0.01, 0.8, order) for order in (2, 9, 64)}
    epsilons = [known[a] + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a in known]  # its own conversion
    assert accountant.get_epsilon(1e-5) == pytest.approx(min(epsilons))
    noise = privacy.noise_multiplier_for(epsilon=by_losses, **REFERENCE)
    assert noise == pytest.approx(1.1, abs=2e-3)
    assert privacy.epsilon(noise_multiplier=noise, accountant="pld", **REFERENCE) <= by_losses


def test_batches_are_drawn_by_chance():
    drawn = [poisson_draw(20, 100, 5, step) for step in range(2000)]
    sizes = np.array([len(batch) for batch in drawn])
    assert sizes.mean() == pytest.approx(20, rel=0.02) and sizes.var() == pytest.approx(16, rel=0.1)
    assert all(len(set(batch)) == len(batch) for batch in drawn)
    share = np.bincount(np.concatenate(drawn), minlength=100) / 2000
    assert share.min() > 0.15 and share.max() < 0.25
    np.testing.assert_array_equal(drawn[3], poisson_draw(20, 100, 5, 3))
    assert sizes.max() <= poisson_rows(20, 100)


def test_a_data_set_of_batches_by_chance():
    tokenizer = kerasllm.tokenizers.Tokenizer.train([], kind="byte")
    text = ["".join(chr(97 + i % 26) for i in range(8 * 50))]
    make = {"seq_len": 8, "batch_size": 5, "poisson": True, "seed": 3, "progress": False}
    dataset = kerasllm.data.causal_lm_dataset(text, tokenizer, epochs=2, **make)
    assert (dataset.num_examples, dataset.batch_size, len(dataset)) == (50, 5, 20)
    batches = list(dataset.as_numpy_iterator())
    sizes = [int(weight.any(axis=1).sum()) for _, _, weight in batches]
    assert len(set(sizes)) > 3 and sizes == [len(poisson_draw(5, 50, 3, step)) for step in range(20)]
    assert all(ids.shape == (poisson_rows(5, 50), 8) for ids, _, _ in batches)
    resumed = kerasllm.data.causal_lm_dataset(text, tokenizer, epochs=2, start_step=13, **make)
    for one, other in zip(batches[13:], resumed.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    with pytest.raises(ValueError, match="shuffle=False"):
        kerasllm.data.causal_lm_dataset(text, tokenizer, **make, shuffle=False)


@pytest.mark.soak
def test_the_account_is_shown_and_goes_on(tmp_path):
    x, y, _ = rows(16)
    asked = {"examples": 16, "batch_size": 4, "delta": 1e-3, "accountant": "rdp"}
    optimizers = [privacy.DPAdamW(noise_multiplier=2.0, clip_norm=1.0, seed=1) for _ in range(2)]
    model, later = (small_model(optimizer) for optimizer in optimizers)
    checkpoint = kerasllm.callbacks.Checkpoint(tmp_path / "checkpoints", every_steps=4)
    fit = {"x": x, "y": y, "batch_size": 4, "shuffle": False, "verbose": 0}
    history = model.fit(**fit, epochs=2, callbacks=[privacy.Account(**asked), checkpoint]).history["epsilon"]
    assert history == [privacy.epsilon(noise_multiplier=2.0, steps=steps, **asked) for steps in (4, 8)]
    restored = kerasllm.callbacks.Checkpoint(tmp_path / "checkpoints", every_steps=4)
    assert restored.restore(later) == 8
    history = later.fit(**fit, epochs=3, callbacks=[privacy.Account(**asked), restored]).history["epsilon"]
    assert history[-1] == privacy.epsilon(noise_multiplier=2.0, steps=12, **asked)
    np.testing.assert_array_equal(np.array(later.optimizer._key), np.array(model.optimizer._key))


def found_epsilon(kept, absent, delta=1e-5, confidence=0.95):
    """The largest epsilon that an attack shows, which says "it was there" where a score is above a threshold."""
    from scipy.stats import beta

    best = 0.0
    for threshold in np.concatenate([kept, absent]):
        hits, alarms = (kept > threshold).sum(), (absent > threshold).sum()
        least = beta.ppf(1 - confidence, hits, len(kept) - hits + 1) if hits else 0.0
        most = beta.ppf(confidence, alarms + 1, len(absent) - alarms) if alarms < len(absent) else 1.0
        best = max(best, math.log(max(least - delta, 1e-9) / most))
    return best


def canary_scores(noise_multiplier, trials, steps=20, count=32, batch_size=8):
    """What models that have read a canary say of it, and others: log-probabilities (trials / 2,) of each."""
    optimizer = privacy.DPAdamW(3e-3, noise_multiplier=noise_multiplier, clip_norm=1.0, batch_size=batch_size)
    model = small_model(optimizer)
    optimizer.build(model.trainable_variables)
    start, state = model.get_weights(), [np.array(v) for v in optimizer.variables]
    x, y, _ = rows(count)
    scores = {True: [], False: []}
    for trial in range(trials):
        model.set_weights(start)
        for variable, value in zip(optimizer.variables, state, strict=True):
            variable.assign(value)
        optimizer._key.assign(np.random.default_rng(trial).integers(0, 2**31, 2).astype("int32"))
        is_there = trial % 2 == 0
        for step in range(steps):
            drawn = poisson_draw(batch_size, count, trial, step)
            drawn = drawn[(drawn > 0) | is_there]  # the canary is row 0
            batch = np.resize(drawn if len(drawn) else [1], poisson_rows(batch_size, count))
            weight = np.ones((len(batch), T), "float32") * (np.arange(len(batch)) < len(drawn))[:, None]
            model.train_on_batch(x[batch], y[batch], weight)
        scores[is_there].append(float(np.sum(model.log_probabilities(x[:1], y[:1]))))
    return np.array(scores[True]), np.array(scores[False])


@pytest.mark.soak
def test_an_attack_finds_no_more_than_the_account_says():
    asked = {"examples": 32, "batch_size": 8, "steps": 20, "delta": 1e-5}
    promised = privacy.epsilon(noise_multiplier=3.0, **asked)
    found = found_epsilon(*canary_scores(3.0, trials=200))
    assert found < promised < found_epsilon(*canary_scores(0.0, trials=200)), (found, promised)


def test_a_run_keeps_to_its_promise(tmp_path):
    pytest.importorskip("dp_accounting")
    promise = privacy.Promise(8.0, 1e-5, 0.5, tmp_path)
    assert promise.drawing == privacy.Promise(8.0, 1e-5, 0.5, tmp_path).drawing  # as where the run is resumed
    tokenizer = kerasllm.tokenizers.Tokenizer.train([], kind="byte")
    dataset = kerasllm.data.causal_lm_dataset(["a" * 800], tokenizer, 8, 5, progress=False, **promise.drawing)
    promise.begin(dataset, steps=30)
    optimizer, kept = promise.optimizer(1e-3), promise.record()
    assert optimizer.noise_multiplier == kept["noise_multiplier"] > 0.3 and optimizer.clip_norm == 0.5
    assert optimizer.batch_size == 5 and (kept["examples"], kept["batch_size"], kept["steps"]) == (100, 5, 30)
    assert 7.9 < kept["epsilon"] <= 8 < kept["epsilon_rdp"]
    privacy.forget(tmp_path)
    assert not list(tmp_path.iterdir())
    assert promise.drawing["seed"] not in kept.values()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"task": "translate"}, "for the tasks causal, masked, tune"),
        ({"task": "prefer", "base": "model"}, "for the tasks causal, masked, tune"),
        ({"optimizer": "muon"}, "optimizer=muon"),
        ({"precision": "mixed_float16"}, "precision=mixed_float16"),
        ({"dp_delta": 0}, "are above 0"),
    ],
)
def test_settings_that_no_promise_goes_with_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        kerasllm.settings.TrainSettings(data=("text",), out="run", dp_epsilon=8, **given)
    with pytest.raises(ValueError, match="how often each"):
        kerasllm.settings.TrainSettings(data=("text",), out="run", canaries=("0",))
