"""Classifiers: what they see, what they learn, what is read for them, and how they are scored."""

import json

import keras
import numpy as np
import pytest
from test_tuned_runs import stored

import kerasllm
from kerasllm.cli import main
from kerasllm.data import classification_dataset, read_labelled
from kerasllm.evaluation import classification_scores
from kerasllm.huggingface.origin import Origin
from kerasllm.models import CausalLM, MaskedLM, SequenceClassifier, TokenClassifier, TransformerConfig
from kerasllm.tokenizers import Tokenizer

V, T = 40, 12
CONFIG = TransformerConfig(V, num_layers=1, d_model=16, num_heads=2, dff=32, max_length=T, num_token_types=2)
DRAW = np.random.default_rng(0)
IDS = DRAW.integers(1, V, (16, T))
LENGTHS = DRAW.integers(1, T + 1, 16)
REAL = (np.arange(T) < LENGTHS[:, None]).astype("int32")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", [SequenceClassifier, TokenClassifier])
def test_padding_changes_nothing(kind, causal, tmp_path):
    model = kind(CONFIG, labels=["a", "b", "c"], causal=causal)
    found = np.asarray(model({"token_ids": IDS, "document_ids": REAL}))
    for row in range(4):
        alone = np.asarray(model(IDS[row : row + 1, : LENGTHS[row]]))
        expected = found[row, : LENGTHS[row]] if kind is TokenClassifier else found[row]
        np.testing.assert_allclose(alone[0], expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.labels == ["a", "b", "c"]
    np.testing.assert_array_equal(again({"token_ids": IDS, "document_ids": REAL}), found)


def test_a_classifier_sees_the_token_that_stands_for_the_text():
    for causal, place in ((False, 0), (True, T - 1)):
        model = SequenceClassifier(CONFIG, 2, causal=causal)
        hidden = np.asarray(model.transformer(model.embed(IDS)))[:, place]
        if not causal:
            hidden = np.tanh(hidden @ model.head_dense.kernel.numpy() + model.head_dense.bias.numpy())
        expected = hidden @ model.head_output.kernel.numpy() + (0 if causal else model.head_output.bias.numpy())
        np.testing.assert_allclose(model(IDS), expected, atol=1e-5)


@pytest.mark.parametrize("base_class", [CausalLM, MaskedLM])
def test_what_was_pretrained_is_kept(base_class):
    base = base_class(CONFIG)
    for head in (SequenceClassifier, TokenClassifier):
        model = head.from_model(base, 3)
        assert model.causal == (base_class is CausalLM)
        np.testing.assert_allclose(model.transformer(model.embed(IDS)), base.transformer(base.embed(IDS)), atol=1e-6)


def test_heads_are_those_of_transformers(tmp_path):
    """Over what was read from there: what is written computes the same there. Other heads are refused."""
    tokenizer = Tokenizer.train(["to be or not"], kind="char", progress=False)
    encoder = {**CONFIG.to_dict(), "vocab_size": tokenizer.vocab_size, "norm_epsilon": 1e-12, "activation": "gelu"}
    encoder |= {"positions": "learned", "norm_placement": "post", "embedding_norm": True, "num_token_types": 0}
    kerasllm.huggingface.save(MaskedLM(TransformerConfig(**encoder)), tokenizer, tmp_path / "bert")
    bert = json.loads((tmp_path / "bert" / "config.json").read_text())
    for kind, activation in (("bert", "tanh"), ("distilbert", "relu"), ("electra", "gelu")):
        values = {**bert, "model_type": kind}
        heads = Origin.of(values, {}, {}, tokenizer).heads
        assert heads["SequenceClassifier"] == {"head_activation": activation, "head_norm": False, "pooling": "first"}
    base = MaskedLM(TransformerConfig(**encoder))
    base.origin = Origin.of({**bert, "model_type": "distilbert"}, {}, {}, tokenizer)
    model = SequenceClassifier.from_model(base, 2)
    assert model.head_activation == "relu" and TokenClassifier.from_model(base, 2).head_activation is None
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "theirs")
    again, _ = kerasllm.load(tmp_path / "theirs")
    np.testing.assert_array_equal(again(IDS % 9), model(IDS % 9))
    model = SequenceClassifier.from_model(base, 2, head_activation="tanh")
    kerasllm.huggingface.save(model, tokenizer, tmp_path / "a tanh")
    written = json.loads((tmp_path / "a tanh" / "config.json").read_text())
    assert (written["model_type"], written["type_vocab_size"]) == ("bert", 1)  # transformers has a table in any case
    again, _ = kerasllm.load(tmp_path / "a tanh")
    np.testing.assert_array_equal(again(IDS % 9), model(IDS % 9))
    other = SequenceClassifier.from_model(base, 2, pooling="mean")
    with pytest.raises(ValueError, match=r"it differs in pooling='mean' \(there 'first'\). Only a run folder"):
        kerasllm.huggingface.save(other, tokenizer, tmp_path / "other")
    with pytest.raises(ValueError, match="`head_norm` normalises between the two layers"):
        TokenClassifier(CONFIG, 2, head_norm=True)


def test_losses_are_those_of_the_problem():
    rows = {"token_ids": IDS, "document_ids": REAL}

    def loss_of(model, labels, weights=None):
        model.compile()
        return model.evaluate(rows, labels, sample_weight=weights, verbose=0, return_dict=True), np.asarray(model(rows))

    labels = DRAW.integers(0, 3, 16)
    found, logits = loss_of(SequenceClassifier(CONFIG, 3), labels)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(16), labels]
    np.testing.assert_allclose(found["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(1) == labels).mean(), rtol=1e-6)
    many = DRAW.integers(0, 2, (16, 3))
    found, logits = loss_of(SequenceClassifier(CONFIG, 3, "multi_label"), many)
    np.testing.assert_allclose(found["loss"], (np.logaddexp(0, logits) - many * logits).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], ((logits > 0) == many).mean(), rtol=1e-6)
    numbers = DRAW.normal(size=16)
    model = SequenceClassifier(CONFIG, 1)
    found, logits = loss_of(model, numbers)
    assert model.problem == "regression"
    np.testing.assert_allclose(found["loss"], ((logits[:, 0] - numbers) ** 2).mean(), rtol=1e-5)


@pytest.mark.soak
def test_class_weights_and_ragged_rows_in_fit():
    import tensorflow as tf

    model = SequenceClassifier(CONFIG, 2)
    model.compile(keras.optimizers.SGD(0.0))
    labels = DRAW.integers(0, 2, 16)
    rows = {"token_ids": IDS, "document_ids": REAL}
    logits = np.asarray(model(rows))
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(16), labels]
    ragged = tf.ragged.boolean_mask(IDS, REAL.astype(bool))
    for x, options in ((rows, {"batch_size": 16}), (tf.data.Dataset.from_tensors((ragged, labels)), {})):
        given = (x, labels) if x is rows else (x,)
        found = model.fit(*given, class_weight={0: 1.0, 1: 3.0}, verbose=0, **options).history["loss"][0]
        np.testing.assert_allclose(found, (losses * np.where(labels, 3.0, 1.0)).mean(), rtol=1e-4)


def test_what_cannot_be_learned_is_refused():
    model = SequenceClassifier(CONFIG, labels=["a", "b"])
    model.compile()
    with pytest.raises(ValueError, match=r"label 2 in row 0 .* is none of the 2"):
        model.fit(IDS, np.full(16, 2), verbose=0)
    with pytest.raises(ValueError, match=r"a label for each text, 16, got \(16, 12\)"):
        model.fit(IDS, IDS, verbose=0)
    with pytest.raises(ValueError, match="needs labels"):
        model.fit(IDS, verbose=0)
    for options, message in (
        ({}, "needs `num_labels`"),
        ({"labels": ["a", "a"]}, "2 different names"),
        ({"num_labels": 3, "labels": ["a"]}, "3 different names"),
        ({"num_labels": 1, "problem": "single_label"}, "at least 2"),
        ({"num_labels": 2, "problem": "ranking"}, "problem"),
    ):
        with pytest.raises(ValueError, match=message):
            SequenceClassifier(CONFIG, **options)


TEXTS = [f"{word} {other}" for word in ("good", "fine", "bad", "poor") for other in ("film", "book", "play", "song")]
LABELS = ["good" if text.startswith(("good", "fine")) else "bad" for text in TEXTS]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=80, kind="wordpiece", progress=False)


def test_batches_are_a_function_of_seed_and_step(tokenizer):
    numbers = np.arange(len(TEXTS))
    options = {"batch_size": 3, "seed": 1, "epochs": 2, "label_weights": numbers / 2}
    whole = list(classification_dataset(TEXTS, numbers, tokenizer, **options))
    later = list(classification_dataset(TEXTS, numbers, tokenizer, start_step=5, **options))
    assert len(whole) == 12 and len(later) == 7
    for (x, y, w), (other_x, other_y, _) in zip(whole[5:], later, strict=True):
        np.testing.assert_array_equal(x["token_ids"], other_x["token_ids"])
        np.testing.assert_array_equal(y, other_y)
        np.testing.assert_array_equal(w, y.numpy() / 2)
    for epoch in (whole[:6], whole[6:]):
        assert sorted(np.concatenate([y for _, y, _ in epoch])) == numbers.tolist()
    for x, y, _ in whole:
        for ids, is_real, number in zip(x["token_ids"].numpy(), x["document_ids"].numpy(), y.numpy(), strict=True):
            assert ids[is_real > 0].tolist() == tokenizer.encode(TEXTS[number])


def test_a_text_that_is_too_long_keeps_its_end():
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.train(TEXTS, kind="char", progress=False)
    start, end = (tokenizer.special_tokens[name] for name in ("start", "end"))
    ids = [(start, tokenizer.start_id), (end, tokenizer.end_id)]
    tokenizer.engine.post_processor = TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)
    with pytest.warns(UserWarning, match="1 of 2 texts are cut to max_length=6"):
        dataset = classification_dataset(["good film", "bad"], [0, 1], tokenizer, max_length=6, shuffle=False)
    inputs, _ = next(iter(dataset))
    whole = tokenizer.encode("good film")
    assert inputs["token_ids"][1, :6].numpy().tolist() == [*whole[:5], tokenizer.end_id]


def test_scores_are_those_of_their_formulas(tokenizer):
    model = SequenceClassifier(
        TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=T), labels=["bad", "good"]
    )
    model.head_output.kernel.assign(40 * DRAW.normal(size=(16, 2)))
    scores = classification_scores(model, tokenizer, TEXTS, LABELS, batch_size=5)
    named = [kerasllm.classify(model, tokenizer, text).label for text in TEXTS]
    tp, fp, fn, tn = (
        sum((n == "good") == is_named and (label == "good") == is_true for n, label in zip(named, LABELS, strict=True))
        for is_named, is_true in ((True, True), (True, False), (False, True), (False, False))
    )
    assert 0 < tp + fp < 16 and scores.confusion.tolist() == [[tn, fp], [fn, tp]]
    assert scores.accuracy == (tp + tn) / 16 and scores.baseline_accuracy == 0.5
    f1 = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    matthews = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    np.testing.assert_allclose([scores.macro_f1, scores.matthews], [f1, matthews], rtol=1e-12)
    probabilities = [
        kerasllm.classify(model, tokenizer, t).probabilities[n] for t, n in zip(TEXTS, LABELS, strict=True)
    ]
    np.testing.assert_allclose(scores.loss, -np.log(probabilities).mean(), rtol=1e-4)
    with pytest.raises(ValueError, match="no label 'fair'; it has bad, good"):
        classification_scores(model, tokenizer, ["x"], ["fair"])


def test_labels_are_read_from_all_kinds_of_files(tmp_path):
    rows = [("a, b", 1), ("c", 2)]
    table = 'label,review\n1,"a, b"\n2,c\n'
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "a.tsv").write_text("review\tlabel\na, b\t1\nc\t2\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"review": t, "label": n}) + "\n" for t, n in rows))
    assert list(read_labelled(tmp_path / "a.jsonl")) == rows
    for name in ("a.csv", "a.tsv"):
        assert list(read_labelled(tmp_path / name)) == [(t, str(n)) for t, n in rows]
        assert list(read_labelled(tmp_path / name, "label", "review")) == [(str(n), t) for t, n in rows]
    (tmp_path / "many.jsonl").write_text('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n')
    assert list(read_labelled(tmp_path / "many.jsonl")) == [("a", ["x", "y"]), ("b", [])]
    for content, options, message in (
        (table, {"label_column": "stars"}, "no column 'stars', but 'label', 'review'"),
        (table, {"text_column": "body"}, "no column 'body', but 'label', 'review'"),
        ("a,b\nx,y\n", {}, "no column that is plainly of labels, but 'a', 'b'"),
        ("text,label\nx,\n", {}, "line 2, column 'label' has no label"),
    ):
        (tmp_path / "b.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            list(read_labelled(tmp_path / "b.csv", **options))


@pytest.mark.soak
def test_the_commands(tmp_path, capsys, few_rounds):
    run, data = tmp_path / "run", tmp_path / "data.csv"
    lines = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    data.write_text("\n".join(["review,stars", *lines * 3]) + "\n")
    columns = ["--text-column", "review", "--label-column", "stars"]
    model = ["--set", "model.num_layers=1", "--d-model", "16", "--num-heads", "2", "--max-length", "16"]
    train = ["train", "--task", "classify", "--data", str(data), *columns, *model, "--tokenizer", "char"]
    train += ["--lr", "0.01", "--steps", "40"]
    assert main([*train, "--balanced", "--precision", "float32", "--out", str(run)]) == 0
    results = json.loads((run / "run.json").read_text())["results"]
    assert results["accuracy"] > 0.9 and results["labels"] == ["bad", "good"] and (run / "confusion.png").is_file()
    capsys.readouterr()
    assert main(["classify", "--model", str(run), "--text", "good play", "--text", "poor play"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["good", "bad"]
    assert main(["evaluate", "--model", str(run), "--data", str(data), "--field", "review", "stars", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    assert main([*train, "--from", str(run), "--out", str(tmp_path / "x")]) == 2
    assert "does nothing beside base" in capsys.readouterr().err
    assert main([*train, "--adapter", "lora", "--out", str(tmp_path / "x")]) == 2
    assert "adapter does nothing without base" in capsys.readouterr().err


@pytest.mark.soak
def test_the_commands_over_a_base_with_adapters(tokenizer, tmp_path, capsys, few_rounds):
    config = TransformerConfig(tokenizer.vocab_size, 1, 64, 2, 64, max_length=T)
    kerasllm.save(CausalLM(config), tokenizer, tmp_path / "base")
    data, run = tmp_path / "data.jsonl", str(tmp_path / "run")
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, LABELS, strict=True)]
    data.write_text("\n".join(rows * 3))
    train = ["train", "--task", "classify", "--data", str(data), "--from", str(tmp_path / "base"), "--steps", "24"]
    assert main([*train, "--rank", "2", "--out", run]) == 2
    assert "rank does nothing without an adapter: leave it out" in capsys.readouterr().err
    adapter = ["--adapter", "lora", "--rank", "2", "--quantize", "nf4", "--lr", "0.02"]
    assert main([*train, *adapter, "--out", run]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["alpha"] == 32 and record["results"]["accuracy"] > 0.9
    assert {name for name in stored(tmp_path / "run") if "/adapters/" not in name} == {"head_output/kernel"}
    assert main(["merge", run, str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    for model in ("run", "merged"):
        assert main(["classify", "--model", str(tmp_path / model), "--text", "good play", "--text", "poor play"]) == 0
        assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["good", "bad"]


@pytest.fixture(scope="module")
def of_pairs():
    """A tokenizer that puts tokens around and between the texts of a pair, and a model that tells them apart."""
    from tokenizers.processors import BertProcessing

    tokenizer = Tokenizer.train(["good", "fine", "bad", "poor"] * 4, vocab_size=40, kind="wordpiece", progress=False)
    ends = [(tokenizer.special_tokens[role], getattr(tokenizer, f"{role}_id")) for role in ("end", "start")]
    tokenizer.engine.post_processor = BertProcessing(*ends)
    return MaskedLM(TransformerConfig(40, 1, 16, 2, 32, 16, num_token_types=2)), tokenizer


@pytest.mark.soak
def test_pairs_of_texts_are_learned(of_pairs, tmp_path, capsys, few_rounds):
    words = ["good", "fine", "bad", "poor"]
    rows = [(a, b, "yes" if b in words[:2] else "no") for a in words for b in words]
    kerasllm.save(*of_pairs, tmp_path / "base")
    (tmp_path / "pairs.csv").write_text("\n".join(["one,two,label", *(",".join(row) for row in rows * 4)]) + "\n")
    data, run = str(tmp_path / "pairs.csv"), str(tmp_path / "run")
    assert list(read_labelled(data, ["two", "one"]))[1] == (("fine", "good"), "yes")
    columns = ["--text-column", "one", "two", "--from", str(tmp_path / "base")]
    train = ["train", "--task", "classify", "--data", data, *columns]
    assert main([*train, "--valid", data, "--lr", "0.02", "--steps", "24", "--precision", "float32", "--out", run]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["accuracy"] > 0.9
    assert main(["evaluate", "--model", run, "--data", data, "--field", "one", "two", "label"]) == 0
    (tmp_path / "pairs.tsv").write_text("fine\tbad\npoor\tgood\n")
    capsys.readouterr()
    for texts in (
        ["--text", "fine", "bad", "--text", "poor", "good"],
        ["--file", str(tmp_path / "pairs.tsv"), "--pairs"],
    ):
        assert main(["classify", "--model", run, *texts]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [(label, *texts) for label, _, *texts in lines] == [("no", "fine", "bad"), ("yes", "poor", "good")]

    assert main(["classify", "--model", run, "--text", "a", "b", "c"]) == 2
    assert "--text is a text, or the two of a pair, got 3" in capsys.readouterr().err


def test_pairs_are_cut_and_their_texts_told_apart(of_pairs):
    base, tokenizer = of_pairs
    model = SequenceClassifier.from_model(base, 2)
    long = ("good fine bad poor", "bad poor")
    dataset = classification_dataset([long], [0], tokenizer, max_length=7, token_types=True)
    inputs, _ = next(iter(dataset))
    parts = [tokenizer.encode(text)[1:-1] for text in ("good fine", "bad poor")]
    ids = [tokenizer.start_id, *parts[0], tokenizer.end_id, *parts[1], tokenizer.end_id]
    np.testing.assert_array_equal(inputs["token_ids"][0, :7], ids)
    np.testing.assert_array_equal(inputs["token_type_ids"][0], [0, 0, 0, 0, 1, 1, 1, 0])
    whole = {"token_ids": inputs["token_ids"][:, :7], "token_type_ids": inputs["token_type_ids"][:, :7]}
    found = np.exp(np.asarray(model(whole))[0])
    (answer,) = kerasllm.classify(model, tokenizer, [("good fine", "bad poor")])
    np.testing.assert_allclose(list(answer.probabilities.values()), found / found.sum(), atol=1e-6)
    for texts, message in (([("a", "b"), "c"], "Either all texts are pairs or none"), ([("a",)], "list of pairs")):
        with pytest.raises(TypeError, match=message):
            kerasllm.classify(model, tokenizer, texts)


@pytest.mark.soak
def test_the_saved_model_answers_as_python_does(tokenizer, tmp_path):
    import tensorflow as tf

    config = TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=T)
    model = SequenceClassifier(config, labels=["bad", "good"], causal=True)
    model.head_output.kernel.assign(40 * DRAW.normal(size=(16, 2)))
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "saved")
    texts = [*TEXTS, "good " * 30, ""]
    made = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"](text=tf.constant(texts))
    expected = kerasllm.classify(model, tokenizer, texts)
    assert [label.decode() for label in made["label"].numpy()] == [found.label for found in expected]
    np.testing.assert_allclose(made["probability"], [found.probability for found in expected], atol=1e-4)
