"""`kerasllm tune --task prefer` and `kerasllm train --teacher`: files and a model in, a run folder out."""

import json

import pytest
from test_preferences import PAIRS, SINGLES, TOKENIZER, make

import kerasllm
from kerasllm.cli import main

pytestmark = pytest.mark.usefixtures("few_rounds")
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefer")
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz "], kind="char", progress=False)
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.vocab_size == TOKENIZER.vocab_size
    kerasllm.save(make(), tokenizer, folder / "base")
    for name, records in {"pairs": PAIRS * 2, "singles": SINGLES * 2}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def prefer(folder, out, *more, data="pairs"):
    data = ["--data", str(folder / f"{data}.jsonl"), "--valid", str(folder / f"{data}.jsonl"), "--out", str(out)]
    small = ["--batch-size", "5", "--max-length", "24", "--precision", "float32"]
    return main(["tune", "--task", "prefer", "--model", str(folder / "base"), *data, *small, *more])


@pytest.mark.soak
def test_a_model_learns_what_is_preferred(folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert prefer(folder, run, "--adapter", "none", "--lr", "0.01", "--epochs", "5", "--micro-batches", "2") == 0
    assert "log-probability of the preferred, nats" in " ".join(capsys.readouterr().out.split())
    record = json.loads((run / "run.json").read_text())
    results = record["results"]
    assert record["settings"]["loss"] == "dpo" and results["pairs"] == 10
    assert results["reward_accuracy"] == 1 and results["loss"] < 0.6 < results["loss_before"]
    model, tokenizer = kerasllm.load(run)
    records = list(kerasllm.data.read_preferences(folder / "pairs.jsonl"))
    data = kerasllm.data.preference_dataset(records, tokenizer, 24, 5, reference=kerasllm.load(folder / "base")[0])
    model.compile("sgd", kerasllm.losses.DPO())
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert found == pytest.approx({name: results[name] for name in found}, rel=1e-3)


@pytest.mark.soak
def test_single_answers_are_learned_by_kto_and_of_pairs_too(folder, tmp_path):
    for data in ("singles", "pairs"):
        enough = ["--adapter", "none", "--lr", "0.01", "--epochs", "20"]
        assert prefer(folder, tmp_path / data, "--loss", "kto", *enough, data=data) == 0
        results = json.loads((tmp_path / data / "run.json").read_text())["results"]
        assert results["loss"] < 0.4 < results["loss_before"] and results["reward_accuracy"] == 1


@pytest.mark.parametrize(
    ("flags", "data", "message"),
    [
        ([], "singles", "loss=dpo learns from pairs, with prompt, chosen and rejected, and"),
        (["--chat-format", "chatml"], "pairs", "has not learned the tokens of that chat format"),
        (["--packed"], "pairs", "packed does nothing for the task prefer"),
    ],
)
def test_what_cannot_be_preferred_is_one_sentence(flags, data, message, folder, tmp_path, capsys):
    assert prefer(folder, tmp_path / "run", *flags, data=data) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and not (tmp_path / "run").exists()


@pytest.mark.soak
def test_a_student_learns_from_a_teacher(folder, tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n\n" * 40)
    sizes = ["--num-layers", "1", "--d-model", "16", "--num-heads", "2", "--max-length", "16", "--steps", "6"]
    data = ["--data", str(tmp_path / "text.txt"), "--teacher", str(folder / "base"), "--batch-size", "2"]
    assert main(["train", *data, *sizes, "--out", str(tmp_path / "run")]) == 0
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert {"loss", "cross_entropy", "divergence", "val_divergence"} <= log["epochs"][-1].keys()
    _, tokenizer = kerasllm.load(tmp_path / "run")
    assert tokenizer.fingerprint() == kerasllm.load(folder / "base")[1].fingerprint()
    assert main(["train", *data, *sizes, "--max-length", "99", "--out", str(tmp_path / "long")]) == 2
