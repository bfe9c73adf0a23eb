"""Mixtures of experts: each token's experts beside plain NumPy, gradients, and what XLA makes of them."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops

import kerasllm
from kerasllm.layers import MixtureOfExperts
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.quantization.quantizing import built_quantized

D, F, E = 6, 10, 5
X = np.random.default_rng(0).normal(size=(2, 7, D)).astype("float32")


def layer_of(**options):
    keras.utils.set_random_seed(0)
    layer = MixtureOfExperts(D, F, num_experts=E, activation="silu", gated=True, **options)
    layer.build(X.shape)
    for weight in layer.weights:
        weight.assign(np.random.default_rng(len(weight.path)).normal(size=weight.shape))
    return layer


def by_hand(layer, x=X):
    """What the definition says, and the loss of the router."""
    weights = {weight.path.removeprefix(f"{layer.name}/"): ops.convert_to_numpy(weight) for weight in layer.weights}
    result, (chosen, likely) = oracles.mixture(
        weights, x, "silu", True, layer.experts_per_token, layer.normalize_experts
    )
    return result, E * (chosen * likely).sum()


@pytest.mark.parametrize("normalize", [True, False])
def test_a_token_reads_its_experts(normalize):
    layer = layer_of(normalize_experts=normalize, experts_per_token=3)
    expected, loss = by_hand(layer)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(X)), expected, rtol=1e-4, atol=1e-4)
    assert float(layer.route(ops.convert_to_tensor(X))[2]) == pytest.approx(loss, rel=1e-5)


def test_the_router_is_kept_even_in_training_alone():
    layer = layer_of(router_loss=0.5)
    layer(X)
    assert layer.losses == []
    layer(X, training=True)
    assert float(layer.losses[0]) == pytest.approx(0.5 * by_hand(layer)[1], rel=1e-5)
    layer.router.kernel.assign(np.zeros((D, E)))
    assert float(layer.route(ops.convert_to_tensor(X))[2]) == pytest.approx(layer.experts_per_token)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="differentiates and compiles with TensorFlow")
@pytest.mark.parametrize("tokens", [1, 14], ids=["fewer rows than experts", "more rows"])
def test_gradients_and_xla_are_those_of_every_expert_for_every_token(tokens):
    import tensorflow as tf

    layer, x = layer_of(), tf.constant(X.reshape(1, -1, D)[:, :tokens])

    def plain(x):
        chosen, shares, _ = layer.route(x)
        share = tf.reduce_sum(tf.one_hot(chosen, E) * shares[..., None], axis=-2)
        gate, value = tf.split(tf.einsum("btd,edu->bteu", x, layer.inner_kernels) + layer.inner_biases, 2, axis=-1)
        made = tf.einsum("bteu,eud->bted", tf.nn.silu(gate) * value, layer.outer_kernels) + layer.outer_biases
        return tf.einsum("bted,bte->btd", made, share)

    def gradients(function, **options):
        @tf.function(**options)
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.sin(function(x)))
            return [loss, *map(tf.convert_to_tensor, tape.gradient(loss, [x, *[w.value for w in layer.weights]]))]

        return step(x)

    expected = gradients(plain)
    for found in gradients(layer), gradients(layer, jit_compile=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.soak
def test_a_model_learns_decodes_and_comes_back(tmp_path):
    keras.utils.set_random_seed(0)
    sizes = {"vocab_size": 20, "num_layers": 2, "d_model": 16, "num_heads": 2, "dff": 16, "max_length": 16}
    config = TransformerConfig.preset("mixtral-laptop", **sizes, num_kv_heads=1, num_experts=(None, 4))
    model = CausalLM(config)
    model.compile(keras.optimizers.Adam(1e-2))
    ids = np.tile(np.arange(4, 14), (4, 1))
    history = model.fit(ids[:, :-1], ids[:, 1:], epochs=25, verbose=0)
    assert history.history["loss"][-1] < 0.3
    assert model.count_params() == config.num_parameters() > config.num_parameters(of_tokens=1)
    assert kerasllm.generation.generate_ids(model, [[4, 5, 6], [7, 8]], 3) == [[7, 8, 9], [9, 10, 11]]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(one(ids)) for one in (model, again)))
    with pytest.raises(ValueError, match="of experts, nearly all of its weights, are not quantized"):
        kerasllm.quantization.quantize(model, "nf4")
    with pytest.raises(ValueError, match="of experts, nearly all"), built_quantized("nf4"):
        CausalLM(config)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_experts": 0}, "`num_experts` must be a positive integer, got 0"),
        ({"num_experts": 4, "experts_per_token": 5}, "`experts_per_token` must be at most `num_experts` (4), got 5"),
        ({"num_experts": 4, "router_loss": -1.0}, "`router_loss` must be at least 0, got -1.0"),
        ({}, "`num_experts` must be a positive integer, got None"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        MixtureOfExperts(D, F, **options).build(X.shape)
    assert message in str(error.value)
