"""The SavedModel: TensorFlow alone runs it, and it answers as the model does in Python."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

PROMPTS = [[5, 6, 7], [8] * 12, [7]]


def padded(prompts):
    ids = np.zeros((len(prompts), max(map(len, prompts))), "int32")
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return ids


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["to be or not to be, that is the question"], kind="char", progress=False)


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    keras.utils.set_random_seed(0)
    config = TransformerConfig(tokenizer.vocab_size, 2, 32, 4, 64, max_length=48, positions="learned")
    model = CausalLM(config)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * np.random.default_rng(1).standard_normal(weight.shape))
    folder = tmp_path_factory.mktemp("export") / "model"
    kerasllm.export.saved_model(model, tokenizer, folder)
    return model, folder


def request(folder, prompts=PROMPTS, **settings):
    settings = {"max_new_tokens": 20, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 7, **settings}
    inputs = {name: tf.constant(value) for name, value in settings.items()}
    inputs |= {"token_ids": padded(prompts), "prompt_lengths": tf.constant([len(prompt) for prompt in prompts])}
    answer = tf.saved_model.load(str(folder)).signatures["generate_ids"](**inputs)
    return [
        row[:length].tolist()
        for row, length in zip(answer["token_ids"].numpy(), answer["lengths"].numpy(), strict=True)
    ]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"temperature": 1.2, "top_k": 9, "top_p": 0.9}])
def test_it_draws_what_python_draws(exported, tokenizer, settings):
    model, folder = exported
    python = {"sampler": "random", "temperature": 0.0, **settings}
    expected = generate_ids(model, PROMPTS, max_new_tokens=20, seed=7, end_ids=[tokenizer.end_id], **python)
    assert request(folder, **settings) == expected


def test_forward_gives_the_models_logits_and_the_tokenizer_lies_beside(exported, tokenizer):
    model, folder = exported
    logits = tf.saved_model.load(str(folder)).signatures["forward"](token_ids=padded(PROMPTS))["logits"]
    assert np.allclose(logits, model(padded(PROMPTS)), atol=1e-5)
    assert Tokenizer.load(folder / "assets.extra").encode("to be") == tokenizer.encode("to be")


def test_a_process_without_keras_runs_it(exported, run_python):
    _, folder = exported
    code = f"""
        import tensorflow as tf
        forward = tf.saved_model.load({str(folder)!r}).signatures["forward"]
        print(forward(token_ids=tf.constant([[5, 6, 7]]))["logits"].shape)
    """
    assert "(1, 3, " in run_python(code, hide=["kerasllm", "keras"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 40}, "longer than the model's 48 tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_p": 0.0}, "top_p must be more than 0"),
        ({"prompts": [[5, 999]]}, "token_ids must be less than"),
        ({"prompts": [[5], []]}, "prompt_lengths must be at least 1"),
    ],
)
def test_the_graph_refuses_bad_requests(exported, settings, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        request(exported[1], **settings)
    assert message in str(error.value).replace("\\'", "'")


def test_the_documented_sequential_is_exported_too(tokenizer, tmp_path):
    model = keras.Sequential(
        [
            keras.layers.Embedding(tokenizer.vocab_size, 16),
            kerasllm.layers.Transformer(1, 32, 4, 64),
            keras.layers.Dense(tokenizer.vocab_size),
        ]
    )
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "model")
    expected = generate_ids(model, PROMPTS, max_new_tokens=20, end_ids=[tokenizer.end_id])
    assert request(tmp_path / "model") == expected


def test_what_cannot_be_exported_is_refused_and_nothing_is_touched(exported, tokenizer, tmp_path):
    model, _ = exported
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    with pytest.raises(FileExistsError, match="exists, and is left as it is"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "keep"
    ids = keras.Input((8,), dtype="int32")
    fixed = keras.Model(ids, keras.layers.Dense(9)(keras.layers.Embedding(9, 4)(ids)))
    with pytest.raises(ValueError, match="takes texts of 8 tokens only"):
        kerasllm.export.saved_model(fixed, tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()
