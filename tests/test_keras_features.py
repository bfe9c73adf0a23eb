"""What Keras offers for every layer works on ours: LoRA and quantization."""

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.models import CausalLM, TransformerConfig

SIZES = {"vocab_size": 50, "num_layers": 1, "d_model": 32, "num_heads": 4, "dff": 64, "max_length": 32}
IDS = np.random.default_rng(0).integers(0, 50, (8, 13)).astype("int32")


def dense_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]


def trained(model, epochs):
    model.compile(kerasllm.optimizers.AdamW(3e-3))
    return model.fit(IDS[:, :-1], IDS[:, 1:], epochs=epochs, verbose=0).history["loss"]


@pytest.mark.soak
def test_lora_trains_its_small_matrices_alone():
    model = CausalLM(TransformerConfig(**SIZES))
    for layer in dense_layers(model):
        layer.enable_lora(2)
    kernels = {layer.path: np.array(layer._kernel) for layer in dense_layers(model)}
    assert len(kernels) == 4
    losses = trained(model, 40)
    assert losses[-1] < 0.9 * losses[0]
    assert all(np.array_equal(layer._kernel, kernels[layer.path]) for layer in dense_layers(model))
    assert all(np.any(np.array(layer.lora_kernel_b)) for layer in dense_layers(model))


@pytest.fixture(scope="module")
def trained_weights():
    keras.utils.set_random_seed(0)
    model = CausalLM(TransformerConfig(**SIZES))
    trained(model, 60)
    return model.get_weights()


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_model_says_about_the_same(mode, trained_weights):
    model = CausalLM(TransformerConfig(**SIZES))
    model.set_weights(trained_weights)
    logits = np.array(model(IDS[:, :-1]))
    expected = kerasllm.generation.generate_ids(model, IDS[:, :6].tolist(), 6) if mode == "int8" else None
    model.quantize(mode)
    assert all(layer.quantization_mode == mode for layer in dense_layers(model))
    quantized = np.array(model(IDS[:, :-1]))
    error = np.linalg.norm(quantized - logits) / np.linalg.norm(logits)
    assert 0 < error < (0.05 if mode == "int8" else 0.3)
    if mode == "int8":
        found = kerasllm.generation.generate_ids(model, IDS[:, :6].tolist(), 6)
        assert np.mean(np.array(found) == np.array(expected)) > 0.8
