"""Documents that are to be forgotten, each beside one that is kept: the loss by hand, and what the data hold."""

import numpy as np
import pytest

from kerasllm.data import unlearning_dataset
from kerasllm.losses import Unlearning
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

TOKENIZER = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz "], kind="char", progress=False)

# A pair of texts: one of three tokens that is kept, and one of two that is to be forgotten, beside padding.
SAID = [[0.5, 0.25, 0.25], [0.8, 0.4, 0.5]]
BEFORE = [[0.9, 0.9, 0.9], [0.4, 0.2, 0.9]]
LABELS, WEIGHT = np.array([[0, 0, 0], [0, 0, -100]]), np.array([[1, 1, 1], [1, 1, 0]], "float32")


def loss_of(loss):
    p = np.array(SAID)
    targets = {"labels": LABELS, "reference_log_probs": np.log(BEFORE).astype("float32")}
    return float(loss(targets, np.log(np.stack([p, 1 - p], axis=-1)).astype("float32"), WEIGHT))


def test_the_loss_is_that_of_the_paper():
    kept = np.log(2 * 4 * 4) / 3
    # What is to be forgotten is 0.8 * 0.4 / (0.4 * 0.2) = 4 times as likely as before: -log sigmoid(-log 2) = log 3.
    assert loss_of(Unlearning(beta=0.5, retain_weight=2.0)) == pytest.approx(4 * np.log(3) + 2 * kept, rel=1e-5)
    difference = Unlearning(variant="gradient_difference")
    assert loss_of(difference) == pytest.approx(np.log(0.8 * 0.4) / 2 + kept, rel=1e-5)
    again = Unlearning.from_config(Unlearning(0.5, retain_weight=2.0).get_config())
    assert loss_of(again) == pytest.approx(4 * np.log(3) + 2 * kept, rel=1e-5)


def test_losses_that_forget_nothing_are_refused():
    with pytest.raises(ValueError, match="one of npo, gradient_difference, got 'ga'"):
        Unlearning(variant="ga")
    with pytest.raises(ValueError, match="`retain_weight` must be at least 0, got -1"):
        Unlearning(retain_weight=-1)


def learned(batch):
    """The texts of each row, what is kept first."""
    _, targets, weight = batch
    return [
        [TOKENIZER.decode(row[w > 0], skip_special=False) for row, w in zip(pair, weights, strict=True)]
        for pair, weights in zip(targets["labels"].numpy(), weight.numpy(), strict=True)
    ]


def test_each_token_of_documents_is_learned_once():
    kept, forgotten = ["one two three", "", "four"], ["abcdefgh", "xyz"]
    data = unlearning_dataset(forgotten, kept, TOKENIZER, seq_len=7, batch_size=4, shuffle=False)
    rows = sorted(pair for batch in data for pair in learned(batch))
    end = "<|endoftext|>"
    # Four texts are to be kept and three to be forgotten, of which the first comes again.
    assert rows == sorted(
        [["one tw", "abcdef"], ["o thre", f"gh{end}"], [f"e{end}", f"xyz{end}"], [f"four{end}", "abcdef"]]
    )
    first = next(iter(unlearning_dataset(["ab"], ["c"], TOKENIZER, 8, 1)))[0]["token_ids"].numpy()
    assert (first[0, :, 0] == TOKENIZER.end_id).all()  # as behind another document


def test_a_reference_says_how_likely_was_what_is_to_be_forgotten():
    model = CausalLM(TransformerConfig(TOKENIZER.vocab_size, 1, 16, 2, 24, max_length=8))
    forgotten, kept = ["abcdefgh", "xyz"], ["one two", "three"]
    data = unlearning_dataset(forgotten, kept, TOKENIZER, seq_len=8, batch_size=3, reference=model)
    inputs, targets, weight = next(iter(data))
    rows = {"token_ids": inputs["token_ids"][:, 1], "document_ids": inputs["document_ids"][:, 1]}
    labels, counts = targets["labels"].numpy()[:, 1], weight.numpy()[:, 1]
    expected = model.log_probabilities(rows, np.maximum(labels, 0), counts) * counts
    np.testing.assert_allclose(targets["reference_log_probs"].numpy()[:, 1], expected, atol=1e-5)
    model.compile("sgd", Unlearning(beta=0.1), run_eagerly=True)
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(20 * np.log(2) + found["retain_loss"], rel=1e-4)  # nothing has changed yet


def test_nothing_to_forget_is_refused():
    with pytest.raises(ValueError, match="`forget` holds no text"):
        unlearning_dataset([""], ["a"], TOKENIZER, 8, 1)
    with pytest.raises(TypeError, match="retain is an iterable of str, got one str"):
        unlearning_dataset(["a"], "a", TOKENIZER, 8, 1)
