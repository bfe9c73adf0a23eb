"""The SavedModel of a masked model: TensorFlow alone runs it, and it fills masks as the model does in Python."""

import numpy as np
import pytest
import tensorflow as tf
from oracles import scramble

import kerasllm
from kerasllm.models import MaskedLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

MASK = "<|mask|>"
SENTENCES = ["the dog sees a man", "a cat", "two men talk, and an old dog sleeps", "é 🙂 ~"] * 5
TEXTS = [f"the {MASK} sees a {MASK}{MASK}", "a cat", "", f"{MASK}", f"<|endoftext|> {MASK} 🙂  {MASK}."]


@pytest.fixture(
    scope="module", params=["wordpiece", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("bpe", "char"))]
)
def exported(request, tmp_path_factory):
    """Model, tokenizer, folder."""
    tokenizer = Tokenizer.train(SENTENCES, vocab_size=330, kind=request.param, special_tokens=[MASK], progress=False)
    sizes = {"num_layers": 1, "d_model": 16, "num_heads": 4, "dff": 32, "max_length": 48}
    model = scramble(MaskedLM(TransformerConfig(tokenizer.vocab_size + 3, **sizes, positions="learned")))
    folder = tmp_path_factory.mktemp("export") / "model"
    kerasllm.export.saved_model(model, tokenizer, folder)
    return model, tokenizer, tf.saved_model.load(str(folder)).signatures


def test_it_fills_masks_as_python_does(exported):
    _, _, signatures = exported
    found = signatures["fill_mask"](text=tf.constant(TEXTS), top_k=tf.constant(3))
    expected = [(row, mask) for row, text in enumerate(TEXTS) if MASK in text for mask in fill(exported, text, 3)]
    assert found["row"].numpy().tolist() == [row for row, _ in expected]
    for tokens, probabilities, (_, mask) in zip(found["token"].numpy(), found["probability"], expected, strict=True):
        assert [token.decode() for token in tokens] == [token for token, _ in mask]
        np.testing.assert_allclose(probabilities, [probability for _, probability in mask], rtol=1e-4)


def fill(exported, text, top_k):
    return kerasllm.fill_mask(*exported[:2], text, top_k)


def test_text_in_text_out(exported):
    model, tokenizer, signatures = exported
    found = signatures["serving_default"](text=tf.constant(TEXTS))["text"].numpy()
    candidates = np.flatnonzero(kerasllm.tokenizers.masks.ordinary_ids(tokenizer))
    for text, filled in zip(TEXTS, found, strict=True):
        ids = np.array(tokenizer.encode_masked(text), "int32")
        if len(ids):
            best = candidates[np.argmax(model(ids[None])[0].numpy()[:, candidates], axis=-1)]
            ids = np.where(ids == tokenizer.mask_id, best, ids)
        assert filled.decode() == tokenizer.decode(ids)
    assert signatures["serving_default"](text=tf.constant([], tf.string))["text"].shape == (0,)


def test_bad_requests_are_refused(exported):
    model, _, signatures = exported
    ids = np.array([[5, 6, 7]], "int32")
    np.testing.assert_allclose(signatures["forward"](token_ids=ids)["logits"], model(ids), atol=1e-5)
    for name, values, message in [
        ("serving_default", {"text": [f"{MASK} " * 60]}, "longer than the 48 tokens that the model takes"),
        ("fill_mask", {"text": [MASK], "top_k": 0}, "top_k must be between 1 and"),
        ("fill_mask", {"text": [MASK], "top_k": 10**6}, "top_k must be between 1 and"),
        ("forward", {"token_ids": [[-1]]}, "token_ids must be at least 0 and less than"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signatures[name](**{key: tf.constant(value) for key, value in values.items()})


def test_what_the_graph_cannot_reproduce_is_refused(tmp_path):
    tokenizer = Tokenizer.train(SENTENCES, vocab_size=60, kind="unigram", special_tokens=[MASK], progress=False)
    model = MaskedLM(TransformerConfig(tokenizer.vocab_size, 1, 16, 4, 32))
    with pytest.raises(ValueError, match="Unigram, with masks"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()
