"""CrowS-Pairs beside both definitions, computed anew from the log-probabilities of transformers on the same weights."""

import csv
import difflib

import numpy as np
import pytest

import kerasllm
from kerasllm.evaluation import bias
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def pairs(shared_data):
    """Thirty pairs of all categories, as rows and as a file."""
    with (shared_data / "crows_pairs" / "crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[::50]


def saved(pairs, folder, kind):
    """A model of transformers with random weights, its folder with a tokenizer of ours, and the file of the pairs."""
    texts = [row[name] for row in pairs for name in ("sent_more", "sent_less")]
    torch.manual_seed(0)
    sizes = {"vocab_size": 600}
    if kind == "Bert":
        tokenizer = Tokenizer.train(texts, 600, "wordpiece", special_tokens=["[PAD]", "[MASK]"], progress=False)
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
        model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    else:
        tokenizer = Tokenizer.train(texts, 600, progress=False)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=4))
    for weight in model.parameters():  # far from what they begin with
        weight.data = weight.data + 0.2 * torch.randn_like(weight)
    model.eval().save_pretrained(folder)
    tokenizer.save(folder)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(pairs[0]))
        writer.writeheader()
        writer.writerows(pairs)
    return model


def log_probabilities(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()


def hidden(model, ids, place, mask_id):
    return log_probabilities(model, [*ids[:place], mask_id, *ids[place + 1 :]])[place, ids[place]]


@pytest.mark.parametrize("definition", ["published", "bias-bench"])
def test_of_masked_models(pairs, tmp_path, definition):
    theirs = saved(pairs, tmp_path, "Bert")
    model, tokenizer = kerasllm.huggingface.load(tmp_path)
    items = {item["sent_more"]: item for item in bias.crows_pairs(model, tokenizer, tmp_path / "pairs.csv").items}
    if definition == "bias-bench":
        scores = bias.crows_pairs(model, tokenizer, tmp_path / "pairs.csv", definition=definition)
        items = {item["sent_more"]: item for item in scores.items}
    compared = 0
    for row in pairs:
        texts = [[*tokenizer.encode(row[name])] for name in ("sent_more", "sent_less")]
        texts = [ids if ids[-1] == tokenizer.end_id else [*ids, tokenizer.end_id] for ids in texts]
        chosen = [[], []]
        for kind, *bounds in difflib.SequenceMatcher(None, *texts).get_opcodes():
            if (kind == "equal") == (definition == "published"):
                chosen[0] += range(*bounds[:2])
                chosen[1] += range(*bounds[2:])
        special = {tokenizer.start_id, tokenizer.end_id}
        chosen = [[i for i in some if ids[i] not in special] for ids, some in zip(texts, chosen, strict=True)]
        if definition == "bias-bench" and not all(chosen):
            assert row["sent_more"] not in items
            continue
        total = np.sum if definition == "published" else np.mean
        expected = [
            total([hidden(theirs, ids, place, tokenizer.mask_id) for place in some])
            for ids, some in zip(texts, chosen, strict=True)
        ]
        item = items[row["sent_more"]]
        np.testing.assert_allclose([item["score_more"], item["score_less"]], expected, atol=0.0005 + 1e-4)
        compared += 1
    assert compared > 15


def test_of_causal_models(pairs, tmp_path):
    theirs = saved(pairs, tmp_path, "GPT2")
    model, tokenizer = kerasllm.huggingface.load(tmp_path)
    first = log_probabilities(theirs, [tokenizer.end_id])[0]
    for item, row in zip(bias.crows_pairs(model, tokenizer, tmp_path / "pairs.csv").items, pairs, strict=True):
        for score, name in (("score_more", "sent_more"), ("score_less", "sent_less")):
            ids = tokenizer.encode(row[name])
            rest = log_probabilities(theirs, ids)
            found = [first[ids[0]], *(rest[i, token] for i, token in enumerate(ids[1:]))]
            assert np.log(item[score]) == pytest.approx(np.mean(found), abs=1e-4)
