"""Embedders: the vectors of texts, what brings them together, and the folders of sentence-transformers."""

import json

import keras
import numpy as np
import pytest
from test_tuned_runs import stored

import kerasllm
from kerasllm.cli import main
from kerasllm.data import pair_dataset
from kerasllm.losses import InfoNCE
from kerasllm.models import MaskedLM, TextEmbedder, TransformerConfig
from kerasllm.tokenizers import Tokenizer

T, W = 12, 16
DRAW = np.random.default_rng(0)
PAIRS = [
    (f"{word} {other}", f"{other} {word}") for word in ("good", "bad", "new") for other in ("film", "book", "play")
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([text for pair in PAIRS for text in pair], kind="char", progress=False)


def made(tokenizer, **options):
    config = TransformerConfig(tokenizer.vocab_size, 1, W, 2, 32, max_length=2 * T)
    return TextEmbedder(config, **options)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "max"])
def test_vectors_are_of_the_tokens_alone(pooling, tokenizer, tmp_path):
    model = made(tokenizer, pooling=pooling, normalize=False, causal=pooling == "last")
    texts = [text for pair in PAIRS for text in pair] + ["a"]
    vectors = kerasllm.embed(model, tokenizer, texts, batch_size=4)
    for text, vector in zip(texts, vectors, strict=True):
        ids = np.array([tokenizer.encode(text)])
        hidden = np.asarray(model.transformer(model.embed(ids)))[0]
        by = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1], "max": hidden.max(0)}
        np.testing.assert_allclose(vector, by[pooling], atol=1e-5)
    kerasllm.save(model, tokenizer, tmp_path / "run")
    again, read = kerasllm.load(tmp_path / "run")
    np.testing.assert_array_equal(kerasllm.embed(again, read, texts, batch_size=4), vectors)


def test_prompts_stand_before_texts_and_lengths_are_one(tokenizer):
    model = made(tokenizer, width=5, activation="tanh", prompts={"query": "new "}, max_tokens=8)
    found = kerasllm.embed(model, tokenizer, ["book", "play"], prompt="query")
    np.testing.assert_array_equal(found, kerasllm.embed(model, tokenizer, ["new book", "new play"]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found.shape == (2, 5) and kerasllm.embed(model, tokenizer, "book").shape == (5,)
    np.testing.assert_array_equal(*(kerasllm.embed(model, tokenizer, text) for text in ("good film", "good fil")))


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_is_its_formula(symmetric):
    vectors, numbers = DRAW.normal(size=(8, 6)), np.repeat([0, 1, 2, 1], 2)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.exp(unit[0::2] @ unit[1::2].T / 0.1)
    losses = []
    for i in range(4):
        negatives = [j for j in range(4) if j == i or numbers[2 * j] != numbers[2 * i]]
        forward = -np.log(scores[i, i] / scores[i, negatives].sum())
        back = -np.log(scores[i, i] / scores[negatives, i].sum())
        losses.append((forward + back) / 2 if symmetric else forward)
    loss = InfoNCE(0.1, symmetric)
    np.testing.assert_allclose(loss(numbers, vectors.astype("float32")), np.mean(losses), rtol=1e-5)
    assert InfoNCE.from_config(loss.get_config()).symmetric is symmetric
    with pytest.raises(ValueError, match="above 0"):
        InfoNCE(0)


def test_pairs_are_learned(tokenizer):
    model = TextEmbedder.from_model(MaskedLM(made(tokenizer).config))
    dataset = pair_dataset(PAIRS, tokenizer, batch_size=9, epochs=30)
    inputs, labels = next(iter(dataset))
    firsts = [
        tokenizer.decode(ids[is_real > 0]) for ids, is_real in zip(*map(np.asarray, inputs.values()), strict=True)
    ]
    assert set(zip(firsts[::2], firsts[1::2], strict=True)) == set(PAIRS)
    np.testing.assert_array_equal(labels[::2], labels[1::2])
    model.compile(keras.optimizers.Adam(0.01))
    losses = model.fit(dataset, epochs=3, steps_per_epoch=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    scores = kerasllm.evaluation.retrieval_scores(model, tokenizer, PAIRS)
    assert scores.recall_at_1 > 0.5 and scores.pairs == scores.texts == 9


def test_ranks_count_those_that_are_nearer(tokenizer, monkeypatch):
    from kerasllm.evaluation import retrieval

    vectors = {"a": [1, 0], "b": [0, 1], "x": [1, 0.1], "y": [1, 0.2], "z": [0, 1]}
    monkeypatch.setattr(retrieval, "embed", lambda model, tokenizer, texts, size: np.array([vectors[t] for t in texts]))
    scores = kerasllm.evaluation.retrieval_scores(None, None, [("a", "y"), ("b", "z"), ("a", "z"), ("a", "x")])
    assert scores.recall_at_1 == 0.5 and scores.texts == 3  # ranks 2, 1, 3 and 1
    np.testing.assert_allclose(scores.mean_reciprocal_rank, (1 / 2 + 1 + 1 / 3 + 1) / 4)


def test_folders_of_sentence_transformers_are_refused_by_name(tokenizer, tmp_path):
    from kerasllm.tokenizers import Tokenizer

    config = TransformerConfig.preset("bert-laptop", vocab_size=40, num_layers=1, d_model=16, num_heads=2, dff=32)
    tokenizer = Tokenizer.train(["so be it"], kind="char", progress=False)
    model = TextEmbedder(config, width=8, activation="tanh", prompts={"query": "q: "}, max_tokens=20)
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "st")
    again, _ = kerasllm.load(tmp_path / "st")
    assert {name: getattr(again, name) for name in again.settings} == {n: getattr(model, n) for n in model.settings}
    np.testing.assert_array_equal(*(kerasllm.embed(m, tokenizer, ["so it", "be"]) for m in (model, again)))
    path = tmp_path / "st" / "modules.json"
    modules = json.loads(path.read_text())
    for change, message in (
        ({"path": "../1_Pooling"}, "not one of its own"),
        ({"type": "sentence_transformers.models.WeightedLayerPooling"}, "WeightedLayerPooling"),
    ):
        path.write_text(json.dumps([modules[0], {**modules[1], **change}, *modules[2:]]))
        with pytest.raises(ValueError, match=message):
            kerasllm.load(tmp_path / "st")
    path.write_text(json.dumps(modules))
    pooling = tmp_path / "st" / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "pooling_mode_cls_token": True}))
    with pytest.raises(ValueError, match=r"(mean|cls)_tokens? and (mean|cls)_tokens?"):
        kerasllm.load(tmp_path / "st")


@pytest.mark.soak
def test_the_commands_and_the_saved_model(tmp_path, capsys, few_rounds):
    import tensorflow as tf

    data, run = tmp_path / "pairs.tsv", tmp_path / "run"
    data.write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS * 3))
    sizes = ["--set", "model.num_layers=1", "--d-model", "16", "--num-heads", "2", "--max-length", "16"]
    train = ["train", "--task", "embed", "--data", str(data), "--valid", str(data), *sizes, "--tokenizer", "char"]
    assert main([*train, "--lr", "0.01", "--steps", "8", "--precision", "float32", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", str(run), "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 27
    assert main(["export", str(run), str(tmp_path / "saved")]) == 0
    model, tokenizer = kerasllm.load(run)
    texts = ["good film", "good " * 30, ""]
    made = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"](text=tf.constant(texts))
    np.testing.assert_allclose(made["vector"], kerasllm.embed(model, tokenizer, texts), atol=1e-5)
    adapted = [
        "--from",
        str(run),
        "--adapter",
        "lora",
        "--rank",
        "2",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "adapted"),
    ]
    assert main(["train", "--task", "embed", "--data", str(data), "--valid", str(data), *adapted]) == 0
    assert all("/adapters/" in name for name in stored(tmp_path / "adapted"))
    assert isinstance(kerasllm.load(tmp_path / "adapted")[0], TextEmbedder)
