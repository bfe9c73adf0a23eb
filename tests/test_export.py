"""The SavedModel: TensorFlow alone runs it, and it answers as the model does in Python."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import strategies as st
from tensorflow.python.saved_model import loader_impl

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

CONTEXT = 48
PROMPTS = [[5, 6, 7], [8] * 12, [7]]
TEXTS = ["to be or", "", "<|endoftext|>", "not\0to be, \t🙂 é that is the question", "b"]
DRAWS = [{}, {"temperature": 0.7}, {"temperature": 1.2, "top_k": 9, "top_p": 0.9, "seed": -5}]


class Served:
    """The signatures of a SavedModel."""

    def __init__(self, folder):
        self.folder = folder
        self.loaded = tf.saved_model.load(str(folder))
        self.signatures = self.loaded.signatures

    def generate(self, texts, **settings):
        answer = self.signatures["generate"](text=tf.constant(texts, tf.string), **inputs(settings))
        return [text.decode() for text in answer.pop("text").numpy()], answer

    def continue_by_default(self, texts):
        answer = self.signatures["serving_default"](text=tf.constant(texts, tf.string))
        return [text.decode() for text in answer["text"].numpy()]

    def generate_ids(self, prompts, **settings):
        lengths = [len(prompt) for prompt in prompts]
        ids = np.zeros((len(prompts), max(lengths)), "int32")
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        answer = self.signatures["generate_ids"](token_ids=ids, prompt_lengths=tf.constant(lengths), **inputs(settings))
        rows = zip(answer["token_ids"].numpy(), answer["lengths"].numpy(), strict=True)
        return [row[:length].tolist() for row, length in rows]


def inputs(settings):
    settings = {"max_new_tokens": 20, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 7, **settings}
    return {name: tf.constant(value) for name, value in settings.items()}


def in_python(settings):
    return {"max_new_tokens": 20, "sampler": "random", "temperature": 0.0, "seed": 7, **settings}


@pytest.fixture(scope="module")
def tokenizer():
    text = "to be or not to be, that is the question: " * 20
    return Tokenizer.train([text], vocab_size=290, kind="bpe", progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    keras.utils.set_random_seed(0)
    config = TransformerConfig(tokenizer.vocab_size, 2, 32, 4, 64, max_length=CONTEXT, positions="learned")
    model = CausalLM(config)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * np.random.default_rng(1).standard_normal(weight.shape))
    return model


@pytest.fixture(scope="module")
def served(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    kerasllm.export.saved_model(model, tokenizer, folder)
    return Served(folder)


@pytest.mark.parametrize("settings", DRAWS)
def test_it_writes_what_python_writes(served, model, tokenizer, settings):
    found, answer = served.generate(TEXTS, **settings)
    assert found == kerasllm.generate(model, tokenizer, TEXTS, **in_python(settings))
    drawn, reasons = answer["tokens"].numpy(), answer["finish_reason"].numpy()
    assert ((drawn == 20) | (reasons == b"stop")).all()
    assert set(reasons) <= {b"stop", b"length"}


@pytest.mark.parametrize("settings", DRAWS)
def test_it_draws_the_ids_that_python_draws(served, model, tokenizer, settings):
    expected = generate_ids(model, PROMPTS, end_ids=[tokenizer.end_id], **in_python(settings))
    assert served.generate_ids(PROMPTS, **settings) == expected


@pytest.mark.soak
def test_compiled_by_xla_it_draws_the_same_ids(model, tokenizer, tmp_path):
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "model", text=False, compiled=True)
    graph = loader_impl.parse_saved_model(str(tmp_path / "model")).meta_graphs[0].graph_def
    assert any(function.attr["_XlaMustCompile"].b for function in graph.library.function)
    compiled = Served(tmp_path / "model")
    options = {"end_ids": [tokenizer.end_id], "vocab_size": tokenizer.vocab_size}
    for prompts in (PROMPTS, PROMPTS[1:2]):
        for settings in DRAWS:
            expected = generate_ids(model, prompts, **options, **in_python(settings))
            assert compiled.generate_ids(prompts, **settings) == expected
    with pytest.raises(tf.errors.InvalidArgumentError, match="temperature must be at least 0"):
        compiled.generate_ids(PROMPTS, temperature=-1.0)


@pytest.mark.soak
def test_the_default_signature_goes_on_as_far_as_generate_does(served, model, tokenizer):
    texts = ["to be", "o" * 30, ""]
    assert served.continue_by_default(texts) == [kerasllm.generate(model, tokenizer, text) for text in texts]


@pytest.mark.soak
def test_a_row_that_ends_says_so(tokenizer, tmp_path):
    """A model whose every next token is the one before it, but behind "b" comes the end."""
    table = np.eye(tokenizer.vocab_size, dtype="float32")
    table[tokenizer.encode("b")] = np.eye(tokenizer.vocab_size)[tokenizer.end_id]
    model = keras.Sequential([keras.layers.Embedding(*table.shape, weights=[table])])
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "model")
    found, answer = Served(tmp_path / "model").generate(["b", "e"], max_new_tokens=3)
    assert found == ["", "eee"]
    assert answer["tokens"].numpy().tolist() == [0, 3]
    assert answer["finish_reason"].numpy().tolist() == [b"stop", b"length"]


def test_broken_utf8_is_read_as_replacement_characters(served, model, tokenizer):
    broken = b"to \xff\xe6\x9d be\xf0"
    found, _ = served.generate([broken])
    assert found == [kerasllm.generate(model, tokenizer, broken.decode("utf-8", "replace"), **in_python({}))]


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\0", b"<|endoftext|>", b"to be"]), max_size=4))
def test_any_bytes_are_answered_in_unicode_each_as_when_alone(served, texts):
    found, _ = served.generate(texts, max_new_tokens=4)
    assert found == [served.generate([text], max_new_tokens=4)[0][0] for text in texts]


def test_no_texts_give_no_texts(served):
    found, answer = served.generate([])
    assert found == served.continue_by_default([]) == []
    assert answer["tokens"].shape == answer["finish_reason"].shape == (0,)


def test_concurrent_requests_get_the_answers_of_requests_one_by_one(served):
    requests = [(TEXTS[index % 5 :], {"temperature": 1.0, "seed": index}) for index in range(24)]

    def ask(request):
        return served.generate(request[0], **request[1])[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, requests)) == list(map(ask, requests))


@pytest.mark.soak
def test_a_process_with_tensorflow_alone_runs_it(served, run_python):
    code = f"""
        import json
        import tensorflow as tf
        served = tf.saved_model.load({str(served.folder)!r}).signatures["serving_default"]
        print("ANSWER", json.dumps([text.decode() for text in served(text=tf.constant({TEXTS!r}))["text"].numpy()]))
    """
    written = run_python(code, hide=["kerasllm", "keras", "tokenizers"])
    assert json.loads(written.partition("ANSWER")[2]) == served.continue_by_default(TEXTS)


def test_forward_gives_the_models_logits_and_the_tokenizer_lies_beside(served, model, tokenizer):
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    assert np.allclose(served.signatures["forward"](token_ids=ids)["logits"], model(ids), atol=1e-5)
    assert Tokenizer.load(served.folder / "assets.extra").encode("to be") == tokenizer.encode("to be")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 47}, "longer than the 48 tokens that the model takes"),
        ({"max_new_tokens": 2**31 - 1}, "longer than the 48 tokens that the model takes"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": -(2**31)}, "max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p must be more than 0"),
        ({"top_p": float("nan")}, "top_p must be more than 0"),
        ({"texts": ["b", "to be " * 100]}, "longer than the 48 tokens that the model takes"),
        ({"texts": ["b", "a" * 2**20]}, "longer than the 48 tokens that the model takes"),
        ({"prompts": [[5, 999]]}, "token_ids must be less than"),
        ({"prompts": [[5, -1]]}, "token_ids must not be negative"),
        ({"prompts": [[5], []]}, "prompt_lengths must be at least 1"),
    ],
)
def test_the_graph_refuses_bad_requests(served, settings, message):
    settings = dict(settings)
    began = time.perf_counter()
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        if "prompts" in settings:
            served.generate_ids(**settings)
        else:
            served.generate(settings.pop("texts", ["to be"]), **settings)
    assert message in str(error.value)
    assert time.perf_counter() - began < 30  # no hang, whatever else the machine does


@pytest.mark.soak  # a smaller one: test_a_row_that_ends_says_so
def test_the_documented_sequential_is_exported_too(tokenizer, tmp_path):
    model = keras.Sequential(
        [
            keras.layers.Embedding(tokenizer.vocab_size, 16),
            kerasllm.layers.Transformer(1, 32, 4, 64),
            keras.layers.Dense(tokenizer.vocab_size),
        ]
    )
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "model")
    expected = kerasllm.generate(model, tokenizer, TEXTS, 20)
    assert Served(tmp_path / "model").generate(TEXTS)[0] == expected


@pytest.mark.soak
def test_a_model_of_another_backend_is_exported_too(tokenizer, tmp_path, run_python, other_backend):
    tokenizer.save(tmp_path)
    code = f"""
        import json
        import kerasllm
        tokenizer = kerasllm.tokenizers.Tokenizer.load({str(tmp_path)!r})
        config = kerasllm.models.TransformerConfig(tokenizer.vocab_size, 1, 32, 4, 64, max_length={CONTEXT})
        model = kerasllm.models.CausalLM(config)
        kerasllm.export.saved_model(model, tokenizer, {str(tmp_path / "model")!r})
        print("ANSWER", json.dumps(kerasllm.generate(model, tokenizer, {TEXTS!r}, 10)))
    """
    written = run_python(code, backend=other_backend)
    expected = json.loads(written.partition("ANSWER")[2])
    assert Served(tmp_path / "model").generate(TEXTS, max_new_tokens=10)[0] == expected


def test_logits_that_are_no_numbers_are_refused(served):
    weights = served.loaded.variables_of_model[0]
    whole = weights.numpy()
    weights.assign(np.full_like(whole, np.nan))
    try:
        with pytest.raises(tf.errors.InvalidArgumentError, match="the logits of the model are not finite"):
            served.generate_ids(PROMPTS)
    finally:
        weights.assign(whole)


def test_what_cannot_be_exported_is_refused_and_nothing_is_touched(model, tokenizer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    with pytest.raises(FileExistsError, match="exists, and is left as it is"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "keep"
    ids = keras.Input((8,), dtype="int32")
    fixed = keras.Model(ids, keras.layers.Dense(9)(keras.layers.Embedding(9, 4)(ids)))
    with pytest.raises(ValueError, match="takes texts of 8 tokens only"):
        kerasllm.export.saved_model(fixed, tokenizer, tmp_path / "new")
    masked = kerasllm.models.MaskedLM(TransformerConfig(9, 1, 4, 1, 4))
    with pytest.raises(ValueError, match="models that continue texts, got a MaskedLM"):
        kerasllm.export.saved_model(masked, tokenizer, tmp_path / "new", compiled=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.soak
def test_where_a_tokenizer_cannot_be_had_ids_are_served(model, tokenizer, tmp_path):
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    strange = Tokenizer(engine)
    with pytest.raises(ValueError, match=r"pre-tokenizer is 'Whitespace'.* export.saved_model\(…, text=False\)"):
        kerasllm.export.saved_model(model, strange, tmp_path / "ids")
    kerasllm.export.saved_model(model, strange, tmp_path / "ids", text=False)
    signatures = tf.saved_model.load(str(tmp_path / "ids")).signatures
    assert set(signatures) == {"generate_ids", "forward"}
    settings = {"max_new_tokens": 5, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    made = signatures["generate_ids"](
        token_ids=tf.constant([[5, 6, 7]]), prompt_lengths=[3], **{n: tf.constant(v) for n, v in settings.items()}
    )
    options = {"end_ids": tokenizer.end_ids, "vocab_size": tokenizer.vocab_size}
    assert (
        made["token_ids"][0, : int(made["lengths"][0])].numpy().tolist()
        == generate_ids(model, [[5, 6, 7]], 5, **options)[0]
    )
