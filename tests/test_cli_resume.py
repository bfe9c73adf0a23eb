"""`kerasllm train --resume`: tasks go on to the bit (killed: test_soak.py); what cannot go on is one sentence."""

import csv
import json
import os
import random
import shutil
import signal

import pytest
import yaml

import kerasllm
from kerasllm.cli import main
from kerasllm.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("few_rounds")
SMALL = ["--layers", "1", "--d-model", "16", "--heads", "2", "--dropout", "0.2", "--steps", "24", "--seed", "3"]
TASKS = {
    "causal": ["--context", "16", "--batch-size", "4", "--tokenizer", "char", "--ema", "0.9"],
    "masked": ["--context", "16", "--batch-size", "4", "--tokenizer", "wordpiece", "--vocab-size", "100"],
    "translate": ["--vocab-size", "300", "--batch-tokens", "64", "--ema", "0.9"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text, and a file of pairs."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    sentences = [
        " ".join(draw.choices(["the", "cat", "dog", "saw", "a", "tree", "and", "slept"], k=6)) for _ in range(200)
    ]
    (folder / "text.txt").write_text(". ".join(sentences))
    pairs = [f"{sentence}\t{sentence[::-1]}\n" for sentence in dict.fromkeys(sentences)]
    (folder / "pairs.tsv").write_text("".join(pairs))
    return folder


def train(task, corpus, out):
    data = corpus / ("pairs.tsv" if task == "translate" else "text.txt")
    return main(["train", "--task", task, "--data", str(data), *SMALL, *TASKS[task], "--out", str(out)])


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function (step): from now on runs get SIGTERM in that step."""

    def interrupt_at(step):
        left = step

        def count(*_, **__):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr("kerasllm.callbacks.StopAfter.on_train_batch_begin", count)

    yield interrupt_at
    monkeypatch.undo()


def log_of(out):
    rows = list(csv.DictReader((out / "log.csv").open()))
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "tokens_per_second")} for row in rows
    ]


@pytest.mark.parametrize(
    "task", ["causal", *(pytest.param(task, marks=pytest.mark.soak) for task in ("masked", "translate"))]
)
def test_a_run_goes_on_to_the_bit(task, corpus, tmp_path, interrupt_at, monkeypatch, capsys):
    assert train(task, corpus, tmp_path / "whole") == 0
    interrupt_at(18)  # signals come before a step
    with pytest.raises(SystemExit) as ended:
        train(task, corpus, tmp_path / "run")
    assert ended.value.code == 143
    assert "Stopped after step 17" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "Going on after step 17, with 7 to go" in " ".join(capsys.readouterr().out.split())
    whole, run = (tmp_path / name for name in ("whole", "run"))
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert log_of(run) == log_of(whole)
    results = [json.loads((out / "run.json").read_text())["results"] for out in (run, whole)]
    assert results[0].keys() == results[1].keys() and results[0].get("loss") == results[1].get("loss")
    assert json.loads((run / "log.json").read_text())["finished"] is True
    kerasllm.load(run)
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("finished", "24 of 24", "all as they were saved", "tensorflow"))
    assert main(["train", "--resume", str(run)]) == 2
    assert "run is finished" in capsys.readouterr().err


def test_what_cannot_go_on_is_one_sentence(corpus, tmp_path, interrupt_at, capsys):
    interrupt_at(2)
    shutil.copytree(corpus, tmp_path / "text")
    with pytest.raises(SystemExit):
        train("causal", tmp_path / "text", tmp_path / "run")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("not finished", "step-00000001", "files, all as they were saved", "causal"))

    def says(message, *more, command=("train", "--resume")):
        assert main([*command, str(tmp_path / "run"), *more]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"kerasllm {command[0]}: ") and message in error

    says("leave out --learning-rate", "--lr", "1")
    settings = tmp_path / "run" / "settings.yaml"
    before = settings.read_text()
    settings.write_text(yaml.safe_dump({**yaml.safe_load(before), "lr": 0.5}))
    says("does not say what run.json says")
    settings.write_text(before)
    tokens = tmp_path / "run" / "tokens" / "train" / "tokens.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    says("tokens.bin")
    tokens.write_bytes(content)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / "model.safetensors").unlink()
    says("has no model.safetensors", command=["inspect"])
    with pytest.warns(UserWarning, match=r"has no model\.safetensors"):
        says("None of the 1 checkpoints")
    (tmp_path / "text" / "text.txt").write_text("another text " * 500)
    says("has changed")
    (tmp_path / "text" / "text.txt").unlink()
    says("text.txt")
    settings.unlink()
    says("is no run to go on with: it has no settings.yaml")


def test_checkpoints_come_after_minutes_or_steps():
    def interval(save_every):
        return TrainSettings(data="text", out="run", save_every=save_every).save_interval()

    assert (interval("5m"), interval(500)) == ({"every_minutes": 5}, {"every_steps": 500})
    for wrong in ("0", "m", "5 m", "-1m", "1.5m", "²"):
        with pytest.raises(ValueError, match="save_every takes minutes, such as 10m, or steps"):
            interval(wrong)
