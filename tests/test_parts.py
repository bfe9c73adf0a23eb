"""What is frozen, adapted or quantized inside a model: saved, loaded and exported as it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.layers import Transformer
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig

CONFIG = TransformerConfig(40, num_layers=2, d_model=16, num_heads=2, dff=24, max_length=16)
IDS = np.random.default_rng(0).integers(0, 40, (3, 12)).astype("int32")


def own_model(**options):
    layers = [keras.layers.Embedding(40, 16), Transformer(2, 16, 2, 24, **options), keras.layers.Dense(40)]
    model = keras.Sequential(layers)
    model(IDS)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char")


def reloaded(model, path):
    model.save(path)
    return keras.models.load_model(path)


def trained(model):
    return [weight.path.partition("/")[2] for weight in model.trainable_weights]


def test_what_is_frozen_stays_so(tmp_path):
    frozen = own_model(trainable=False)
    assert len(trained(frozen)) == 3 == len(trained(reloaded(frozen, tmp_path / "own.keras")))
    model = CausalLM(CONFIG)
    model.transformer.trainable = False
    model.transformer.blocks[1].trainable = True
    model.transformer.blocks[1].attention.trainable = False
    again = reloaded(model, tmp_path / "model.keras")
    assert 0 < len(trained(model)) < 10 and trained(again) == trained(model)
    assert not again.transformer.blocks[1].attention.trainable
    assert trained(CausalLM.from_config(again.get_config())) == trained(model)
    whole = CausalLM(CONFIG, trainable=False)
    whole.trainable = True
    assert trained(CausalLM(CONFIG, trainable=False)) == [] and len(trained(whole)) == len(CausalLM(CONFIG).weights)


@pytest.mark.parametrize("make", [own_model, lambda: CausalLM(CONFIG), lambda: Seq2SeqLM(CONFIG)])
def test_checkpoints_of_tensorflow_hold_everything(make, tmp_path):
    model, other = make(), make()
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=other).restore(path).assert_consumed()
    for expected, found in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_lora_is_saved_merged(tokenizer, tmp_path):
    model = CausalLM(CONFIG)
    model.token_embedding.enable_lora(2)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense):
            layer.enable_lora(2, lora_alpha=3)
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.weights])
    kerasllm.save(model, tokenizer, tmp_path / "run")
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "hf")
    for folder in ("run", "hf"):
        loaded, _ = kerasllm.load(tmp_path / folder)
        assert len(loaded.weights) == len(CausalLM(CONFIG).weights)
        np.testing.assert_allclose(loaded(IDS), model(IDS), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Layer")  # of Keras, that not every layer can be quantized
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.soak
def test_a_quantized_model_is_loaded_again(mode, tokenizer, tmp_path):
    model = CausalLM(CONFIG)
    model.quantize(mode, filters="output|embedding")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    for loaded in (kerasllm.load(tmp_path / "run")[0], reloaded(model, tmp_path / "model.keras")):
        assert loaded.transformer.blocks[1].attention.output_projection.quantization_mode == mode
        np.testing.assert_array_equal(loaded(IDS), model(IDS))
    with pytest.raises(ValueError, match=f"is quantized by {mode}, which could not be loaded again: save it before"):
        kerasllm.huggingface.save(model, tokenizer, tmp_path / "hf")
    for layer in (model.token_embedding, model.transformer.blocks[0].feed_forward.inner):
        layer.enable_lora(2, lora_alpha=3)
        for weight in layer.trainable_weights:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    kerasllm.save(model, tokenizer, tmp_path / "lora")
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "lora")[0](IDS), model(IDS))


@pytest.mark.parametrize("kind", [CausalLM, MaskedLM, pytest.param(Seq2SeqLM, marks=pytest.mark.soak)])
def test_keras_export_takes_ids(kind, tmp_path):
    model = kind(CONFIG)
    model.export(tmp_path / "exported", verbose=False)
    serve = tf.saved_model.load(tmp_path / "exported").signatures["serving_default"]
    names = serve.structured_input_signature[1]
    assert {spec.dtype for spec in names.values()} == {tf.int32}
    for length in (12, 5):
        inputs = dict.fromkeys(names, IDS[:, :length])
        expected = model(inputs if kind is Seq2SeqLM else IDS[:, :length])
        np.testing.assert_allclose(serve(**inputs)["output_0"], expected, atol=1e-6)


def test_a_summary_knows_shapes():
    lines = []
    CausalLM(CONFIG).summary(print_fn=lambda line, **_: lines.append(line))
    assert "(None, None, 16)" in "".join(lines) and "?" not in "".join(lines)


class Own(keras.Model):
    """A model with a `config` that means something else."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.inner = own_model()

    def call(self, ids):
        return self.inner(ids)


@pytest.mark.parametrize("config", [{"vocab_size": 3}, pytest.param(object(), marks=pytest.mark.soak)])
def test_a_config_of_ones_own_is_let_alone(config, tokenizer):
    model = Own(config)
    assert kerasllm.generation.generate_ids(model, [[1, 2]], 3, cached=False)
    scores = kerasllm.evaluation.perplexity(model, tokenizer, "abc", context=8)
    assert scores == kerasllm.evaluation.perplexity(model.inner, tokenizer, "abc", context=8)


@pytest.mark.soak
def test_of_probabilities_the_logarithm_is_taken(tokenizer):
    model = own_model()
    dense = keras.layers.Dense(40, activation="softmax")
    likely = keras.Sequential([*model.layers[:-1], dense])
    likely(IDS)
    dense.set_weights(model.layers[-1].get_weights())
    split = keras.Sequential([*model.layers, keras.layers.Softmax()])
    expected = generate_ids(model, [[1, 2, 3]], 8, sampler="random", temperature=0.5, seed=3)
    loss = kerasllm.evaluation.perplexity(model, tokenizer, "abc", context=8).loss
    with pytest.warns(UserWarning, match="ends in a softmax, so its outputs are taken for probabilities"):
        assert generate_ids(likely, [[1, 2, 3]], 8, sampler="random", temperature=0.5, seed=3) == expected
    for other in (likely, split):
        with pytest.warns(UserWarning, match="ends in a softmax"):
            found = kerasllm.evaluation.perplexity(other, tokenizer, "abc", context=8).loss
        assert found == pytest.approx(loss, rel=1e-5)
