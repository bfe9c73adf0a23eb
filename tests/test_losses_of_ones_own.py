"""Losses that users make of log-probabilities: means over sequences and pairs, however a batch is cut."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasllm.losses import LogProbabilityLoss, TokenCrossentropy
from kerasllm.models import CausalLM, TransformerConfig

SIZES = {"vocab_size": 37, "num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 16}
DRAW = np.random.default_rng(1)
IDS, LABELS = DRAW.integers(0, 37, (2, 10, 11))
WEIGHT = (np.arange(11) < np.array([11, 1, 5, 0, 9, 2, 0, 0, 7, 11])[:, None]).astype("float32")
WEIGHT[4] *= 0.5  # a row that counts half
REFERENCE = DRAW.normal(-9.0, 1.0, 10).astype("float32")


class SequenceLoss(LogProbabilityLoss):
    """Each text counts alike, be it long or short."""

    mean_over = "sequences"

    def item_losses(self, log_probs, weight, y_true):
        return -keras.ops.sum(log_probs * weight, axis=1) / keras.ops.sum(weight, axis=1)


class PairLoss(LogProbabilityLoss):
    """The better of two answers, by https://arxiv.org/abs/2305.18290, equation 7."""

    mean_over = "pairs"

    def item_losses(self, log_probs, weight, y_true):
        ratios = keras.ops.sum(log_probs * weight, axis=1) - y_true["reference"]
        return -keras.ops.log_sigmoid(0.3 * (ratios[0::2] - ratios[1::2]))


LOSSES = {SequenceLoss: LABELS, PairLoss: {"labels": LABELS, "reference": REFERENCE}}


def expected_loss(kind, log_probs, smoothing=0.0):
    """In NumPy, item by item, from log-probabilities (B, T, V)."""
    of_labels = np.take_along_axis(log_probs, LABELS[..., None], axis=-1)[..., 0]
    of_labels = (1 - smoothing) * of_labels + smoothing * log_probs.mean(axis=-1)
    sums = [of_labels[i, WEIGHT[i] > 0].sum() for i in range(10)]
    total = count = 0.0
    if kind is SequenceLoss:
        items = [(-sums[i] / (WEIGHT[i] > 0).sum(), WEIGHT[i].max()) for i in range(10) if WEIGHT[i].any()]
    else:
        items = []
        for i in range(0, 10, 2):
            # The row that counts half stands beside one that counts whole: its tokens then count as they are.
            largest = WEIGHT[i : i + 2].max()
            if largest:
                best, other = ((of_labels[j] * WEIGHT[j] / largest).sum() - REFERENCE[j] for j in (i, i + 1))
                items.append((np.log1p(np.exp(-0.3 * (best - other))), largest))
    for loss, weight in items:
        total, count = total + loss * weight, count + weight
    return total / count


def make():
    model = CausalLM(TransformerConfig(**SIZES))
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("kind", [SequenceLoss, PairLoss])
@pytest.mark.soak
def test_a_batch_counts_what_the_loss_is_a_mean_over_however_it_is_cut(kind):
    log_probs = np.array(keras.ops.log_softmax(make()(IDS)), "float64")
    found = {}
    for micro_batches, chunk_size in ((1, None), (1, 7), (3, 7)):
        model = make()
        before = model.get_weights()
        loss = kind(label_smoothing=0.1, chunk_size=chunk_size)
        model.compile(keras.optimizers.SGD(1.0), loss, micro_batches=micro_batches, run_eagerly=micro_batches == 1)
        data = tf.data.Dataset.from_tensor_slices((IDS, LOSSES[kind], WEIGHT))
        evaluated = model.evaluate(data.batch(4), verbose=0, return_dict=True)
        assert evaluated == {"loss": pytest.approx(expected_loss(kind, log_probs), rel=1e-5)}
        history = model.fit(data.batch(10), shuffle=False, verbose=0).history
        assert history == {"loss": [pytest.approx(evaluated["loss"], rel=1e-5)]}
        found[micro_batches, chunk_size] = [new - old for new, old in zip(model.get_weights(), before, strict=True)]
    whole = found.pop((1, None))
    for moves in found.values():
        for expected, move in zip(whole, moves, strict=True):
            assert np.linalg.norm(move - expected) <= 1e-5 * np.linalg.norm(expected) > 0
    by_hand = kind(label_smoothing=0.1)(LOSSES[kind], log_probs.astype("float32"), WEIGHT)
    assert float(by_hand) == pytest.approx(expected_loss(kind, log_probs, 0.1), rel=1e-5)


def test_what_is_no_mean_and_what_is_no_pair_is_refused():
    class Nowhere(LogProbabilityLoss):
        mean_over = "documents"

    with pytest.raises(ValueError, match="over one of tokens, sequences, pairs, got mean_over='documents' in Nowhere"):
        Nowhere()
    with pytest.raises(ValueError, match=r"PairLoss is a mean over pairs, .* got a batch of 3 rows"):
        PairLoss()({"labels": LABELS[:3], "reference": REFERENCE[:3]}, np.zeros((3, 11, 37), "float32"))


def test_a_call_of_ones_own_gets_logits_also_with_a_loss_in_chunks():
    widths = []

    class Own(CausalLM):
        def call(self, inputs, training=None):
            logits = super().call(inputs, training=training)
            widths.append(logits.shape[-1])
            return logits * 2.0

    model = Own(TransformerConfig(**SIZES))
    expected = TokenCrossentropy()(LABELS, model(IDS), WEIGHT)
    with pytest.warns(UserWarning, match="`call` of Own has no argument `return_hidden_states`, so the logits of all"):
        model.compile("sgd", TokenCrossentropy(chunk_size=4))
    found = model.evaluate(IDS, LABELS, sample_weight=WEIGHT, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(float(expected), rel=1e-5) and set(widths) == {37}
