"""Losses over preferred answers: numbers beside NumPy, the update however a batch is cut, and what the data hold."""

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.data import preference_dataset
from kerasllm.losses import DPO, KTO, ORPO, SimPO
from kerasllm.models import CausalLM, TransformerConfig

TOKENIZER = kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz "], kind="char", progress=False)
SIZES = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 24}
PAIRS = [
    {"prompt": "ab", "chosen": "cd", "rejected": "x"},
    {"prompt": "one two", "chosen": "three", "rejected": "four"},
    {"prompt": "q", "chosen": "rstuvw", "rejected": "rstuvy"},
    {"prompt": "lm", "chosen": "n", "rejected": "ooooo"},
    {"prompt": "abc", "chosen": "def", "rejected": "fed"},
]
SINGLES = [
    {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
    for pair, name in zip(PAIRS, ["chosen", "rejected", "chosen", "chosen", "rejected"], strict=True)
]
LOSSES = {
    "dpo": DPO(0.3, chunk_size=7),
    "ipo": DPO(0.3, "ipo", chunk_size=7),
    "orpo": ORPO(0.3, chunk_size=7),
    "simpo": SimPO(0.3, 0.2, chunk_size=7),
    "kto": KTO(0.3, chunk_size=7),
}


def make(seed=0):
    model = CausalLM(TransformerConfig(vocab_size=TOKENIZER.vocab_size, **SIZES))
    draw = np.random.default_rng(seed)
    model.set_weights([draw.normal(scale=0.3, size=weight.shape) for weight in model.get_weights()])
    return model


def records_of(name):
    return SINGLES if name == "kto" else PAIRS


def batches(name, batch_size=5, **options):
    return preference_dataset(records_of(name), TOKENIZER, 24, batch_size, shuffle=False, **options)


def log_probs_of(model, prompt, answer):
    """Of the tokens of a text, and how many of them at the end are of the answer; each text alone, by NumPy."""
    ids = TOKENIZER.encode(prompt) + TOKENIZER.encode(answer) + [TOKENIZER.end_id]
    logits = np.array(model(np.array([ids[:-1]])))[0].astype("float64")
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs[np.arange(len(ids) - 1), ids[1:]], len(TOKENIZER.encode(answer)) + 1


def expected(name, model, reference):
    """The loss and what is reported beside it, text by text."""

    def answer(of, prompt, text):
        values, count = log_probs_of(of, prompt, text)
        return values[-count:]

    def delta(prompt, text):
        return answer(model, prompt, text) - answer(reference, prompt, text)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    if name == "kto":
        others = zip(SINGLES, SINGLES[-1:] + SINGLES[:-1], strict=True)
        shifted = [delta(one["prompt"], other["completion"]).sum() for one, other in others]
        z = max(np.mean(shifted), 0)
        sides = [0.3 * (2 * one["label"] - 1) * (delta(one["prompt"], one["completion"]).sum() - z) for one in SINGLES]
        wanted = [delta(one["prompt"], one["completion"]).sum() for one in SINGLES if one["label"]]
        measures = np.mean(np.array(sides) > 0), np.mean(sides), np.mean(wanted), z
        return np.mean(1 - sigmoid(np.array(sides))), *measures
    texts = [[(pair["prompt"], pair[which]) for which in ("chosen", "rejected")] for pair in PAIRS]
    means = np.array([[answer(model, *text).mean() for text in pair] for pair in texts])
    if name in ("dpo", "ipo"):
        sums = np.array([[delta(*text).sum() for text in pair] for pair in texts])
        over = np.array([[delta(*text).mean() for text in pair] for pair in texts])
        kls = [[(delta(*text) ** 2 / 2).mean() for text in pair] for pair in texts]
        margin = 0.3 * np.diff(-(sums if name == "dpo" else over))[:, 0]
        losses = -np.log(sigmoid(margin)) if name == "dpo" else (margin / 0.3 - 1 / 0.6) ** 2
        return losses.mean(), (margin > 0).mean(), margin.mean(), sums[:, 0].mean(), np.mean(kls)
    margin = 0.3 * (means[:, 0] - means[:, 1])
    if name == "simpo":
        loss = -np.log(sigmoid(margin - 0.2)).mean()
    else:
        odds = means - np.log(1 - np.exp(means))
        nll = np.concatenate([log_probs_of(model, *pair[0])[0] for pair in texts])
        loss = -nll.mean() - 0.3 * np.log(sigmoid(odds[:, 0] - odds[:, 1])).mean()
    return loss, (margin > 0).mean(), margin.mean(), means[:, 0].mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_papers_and_parts_of_a_batch_make_the_same_update(name):
    reference = make(3)
    data = batches(name, reference=reference)
    moves = []
    for micro_batches, chunk_size in ((1, None), (4, 7)):
        model = make()
        before = model.get_weights()
        loss = type(LOSSES[name]).from_config({**LOSSES[name].get_config(), "chunk_size": chunk_size})
        in_graph = name == "dpo" and micro_batches > 1
        model.compile(keras.optimizers.SGD(1.0), loss, micro_batches=micro_batches, run_eagerly=not in_graph)
        wanted = dict(zip(("loss", *loss.measures), expected(name, model, reference), strict=True))
        history = model.fit(data, shuffle=False, verbose=0).history
        assert {key: values[0] for key, values in history.items()} == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        moves.append([new - old for new, old in zip(model.get_weights(), before, strict=True)])
    for part, whole in zip(*moves, strict=True):
        assert np.linalg.norm(part - whole) <= 1e-5 * np.linalg.norm(whole) > 0
