"""One model on many devices: beside one that is on a single device."""

import keras
import pytest
from many_devices import on_eight_devices

from kerasllm.distribution import initialize, layout_map, mesh
from kerasllm.distribution.layouts import axes_of

DEVICES = [f"cpu:{number}" for number in range(8)]


@pytest.fixture
def two_by_four():
    return keras.distribution.DeviceMesh((1, 4, 2), ["data", "fsdp", "tensor"], DEVICES)


@pytest.mark.parametrize(
    "path, shape, axes",
    [
        ("lm/transformer/block_0/attention/query_key_value/kernel", (32, 64), ("fsdp", "tensor")),
        ("lm/transformer/block_0/attention/query_key_value/bias", (64,), ("tensor",)),
        ("lm/transformer/block_0/attention/output/kernel", (32, 32), ("tensor", "fsdp")),
        ("lm/transformer/block_0/attention/output/bias", (32,), (None,)),
        ("lm/transformer/block_0/feed_forward/inner/kernel", (32, 128), ("fsdp", "tensor")),
        ("lm/transformer/block_0/feed_forward/outer/kernel", (64, 32), ("tensor", "fsdp")),
        ("lm/token_embedding/embeddings", (97, 32), (None, "fsdp")),
        ("lm/token_embedding/reverse_embeddings", (32, 96), ("fsdp", "tensor")),
        ("lm/transformer/position_embedding/embeddings", (30, 32), (None, "fsdp")),
        ("lm/transformer/final_norm/scale", (32,), (None,)),
        ("lm/some_layer/table", (3, 5), (None, None)),
        ("seed_generator_state", (), ()),
    ],
)
def test_where_weights_go(two_by_four, path, shape, axes):
    assert axes_of(path, shape, two_by_four) == axes


def test_the_map_of_a_model_has_all_its_weights(two_by_four):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="inner"), keras.layers.Dense(4)])
    found = {path: layout.axes for path, layout in layout_map(model, two_by_four).items()}
    assert list(found) == [weight.path for weight in model.weights]
    assert list(found.values()) == [("fsdp", None), (None,), (None, "fsdp"), (None,)]


def test_on_tensorflow_a_mesh_says_where_to_go():
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=jax.*MirroredStrategy"):
        mesh(data=2)


def test_on_tensorflow_there_is_one_process():
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        initialize("127.0.0.1:1234", 2, 0)


@pytest.mark.scale
@pytest.mark.parametrize("style", ["gpt2", "llama", "gemma-2", "mixtral", "bert", "t5"])
def test_eight_devices_learn_what_one_learns(style):
    """Loss and gradients, and 20 updates in chunks and micro-batches, with dropout and uneven numbers of tokens."""
    for found in on_eight_devices("learned", style):
        assert max(found["gradients"], found["updates"]) < 1e-5, found
        assert found["same text"], found
        if found["mesh"] == "fsdp=8":
            assert found["share"] < 1.1 / 8, found
