"""The SavedModel of a translation model: TensorFlow alone runs it, and it translates as the model does in Python."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
from oracles import scramble

import kerasllm
from kerasllm.models import Seq2SeqLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

SENTENCES = ["the dog sees a man", "a cat", "two men talk, and an old dog sleeps", "é 🙂 ~ <|endoftext|>"] * 3
TEXTS = ["a dog", "", " \u3000\x1c", "the old man sees two cats", "not\0to be <|pad|>", "x"]


def make_model(tokenizer):
    source, target = tokenizer if isinstance(tokenizer, tuple) else (None, tokenizer)
    sizes = {"num_layers": 1, "d_model": 16, "num_heads": 4, "dff": 32, "max_length": 40}
    config = TransformerConfig(target.vocab_size, **sizes)
    if source:
        others = {"decoder_start_id": target.end_id, "forced_bos_id": target.encode("two")[0]}
        config = dataclasses.replace(config, source_vocab_size=source.vocab_size, **others)
    return scramble(Seq2SeqLM(config), seed=2)


@pytest.fixture(scope="module", params=[pytest.param("one vocabulary", marks=pytest.mark.soak), "two vocabularies"])
def exported(request, tmp_path_factory):
    """Model, tokenizer, folder, and what is loaded from it."""
    tokenizer = Tokenizer.train(SENTENCES, vocab_size=300, progress=False)
    if request.param == "two vocabularies":
        tokenizer = Tokenizer.train(SENTENCES, vocab_size=60, kind="unigram", progress=False), tokenizer
    model = make_model(tokenizer)
    folder = tmp_path_factory.mktemp("export") / "model"
    kerasllm.export.saved_model(model, tokenizer, folder)
    return model, tokenizer, folder, tf.saved_model.load(str(folder))


@pytest.mark.soak  # test_export.py shows it of a causal model
@pytest.mark.parametrize("exported", ["two vocabularies"], indirect=True)
def test_tensorflow_alone_translates_as_python_does(exported, run_python):
    model, tokenizer, folder, _ = exported
    code = f"""
        import json
        import tensorflow as tf
        import tensorflow_text
        served = tf.saved_model.load({str(folder)!r}).signatures["serving_default"]
        print("ANSWER", json.dumps([text.decode() for text in served(text=tf.constant({TEXTS!r}))["text"].numpy()]))
    """
    written = run_python(code, hide=["kerasllm", "tokenizers"])
    assert json.loads(written.partition("ANSWER")[2]) == kerasllm.translate(model, tokenizer, TEXTS)


@pytest.mark.soak
def test_options_and_scores_are_those_of_python(exported):
    model, tokenizer, _, loaded = exported
    found = loaded.signatures["serving_default"](text=tf.constant(TEXTS))["text"].numpy()
    assert [text.decode() for text in found] == kerasllm.translate(model, tokenizer, TEXTS)
    translate = loaded.signatures["translate"]
    for beams, penalty, most in itertools.product((1, 3), (0.0, 1.0), (1, 9)):
        options = {"num_beams": beams, "length_penalty": penalty, "max_new_tokens": most}
        found = translate(text=tf.constant(TEXTS), **{name: tf.constant(value) for name, value in options.items()})
        expected = [best[0] for best in kerasllm.translate(model, tokenizer, TEXTS, num_best=1, **options)]
        assert [text.decode() for text in found["text"].numpy()] == [text for text, _ in expected]
        np.testing.assert_allclose(found["score"], [score for _, score in expected], rtol=1e-4, atol=1e-6)


def test_forward_gives_logits_and_bad_requests_are_refused(exported):
    model, _, _, loaded = exported
    signatures = loaded.signatures
    ids = np.array([[5, 6, 7]], "int32")
    inputs = {"source_ids": ids, "source_mask": ids > 5, "target_ids": ids[:, :2]}
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    np.testing.assert_allclose(signatures["forward"](**tensors)["logits"], model(inputs), atol=1e-5)
    wrong = [
        ("forward", {**inputs, "target_ids": [[9999]]}, "target_ids must be at least 0 and less than"),
        ("serving_default", {"text": ["a", "the dog sees " * 30]}, "longer than the 40 tokens that the model takes"),
        ("serving_default", {"text": ["a" * 2**20]}, "longer than the 40 tokens that the model takes"),
        ("translate", {"num_beams": 0}, "num_beams must be at least 1"),
        ("translate", {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ]
    for name, values, message in wrong:
        if name == "translate":
            values = {"text": ["a"], "num_beams": 1, "length_penalty": 1.0, "max_new_tokens": 3, **values}
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signatures[name](**{key: tf.constant(value) for key, value in values.items()})


def test_no_texts_give_no_translations(exported):
    served = exported[3].signatures["serving_default"]
    assert served(text=tf.constant([], tf.string))["text"].shape == (0,)
