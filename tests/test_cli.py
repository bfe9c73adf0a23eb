"""The command line: a run from text to SavedModel, and one sentence for everything that can go wrong."""

import csv
import dataclasses
import gzip
import inspect
import io
import itertools
import json
import random
import types

import numpy as np
import pytest
import yaml
from reads import counted_reads

import kerasllm
from kerasllm import data, recipe
from kerasllm.cli import main, quickstart
from kerasllm.cli.arguments import parse
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.optimizers import AdamW, Muon
from kerasllm.settings import TrainSettings
from kerasllm.settings.names import MODEL_FLAGS, merge_settings
from kerasllm.tasks.corpus import Corpus, Measured
from kerasllm.tokenizers import Tokenizer

pytestmark = pytest.mark.usefixtures("few_rounds")
SMALL = {"layers": 1, "d_model": 16, "heads": 2, "context": 16, "batch_size": 4, "tokenizer": "char", "steps": 25}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A file of 6,000 characters of made-up sentences."""
    words = random.Random(0).choices(["the", "cat", "dog", "saw", "a", "tree", "and", "slept."], k=1500)
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(" ".join(words)[:6000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run folder made from a YAML file and flags, of which the flags win."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "run.yaml").write_text(yaml.safe_dump({**SMALL, "lr": "1e-3", "steps": 7}))
    arguments = ["train", "--config", str(folder / "run.yaml"), "--data", str(corpus), "--out", str(folder / "run")]
    with counted_reads(corpus) as reads:
        assert main([*arguments, "--steps", "25", "--seed", "3"]) == 0
    assert reads == {corpus.name: 2}  # once for the tokenizer, once for the tokens
    return folder / "run"


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_train_writes_all_there_is_to_know(run, corpus):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json",
        "run.json", "settings.yaml", "log.csv", "log.json", "plot.png", "tokens",
    }  # fmt: skip
    record = read_json(run / "run.json")
    assert record["settings"] == {**TrainSettings(**SMALL, data=str(corpus), out=str(run), seed=3).to_dict()}
    assert yaml.safe_load((run / "settings.yaml").read_text()) == record["settings"]
    assert record["versions"].keys() >= {"kerasllm", "python", "tensorflow", "keras", "numpy"}
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert int(rows[-1]["step"]) == record["results"]["steps"] == 25  # No multiple of the rounds of validation.
    assert float(rows[-1]["val_loss"]) < float(rows[0]["loss"])


def test_the_results_are_of_the_whole_held_out_text(run, corpus):
    text = corpus.read_text()
    held_out = text[int(len(text) * 0.9) :]
    results = read_json(run / "run.json")["results"]
    model, tokenizer = kerasllm.load(run)
    assert (results["tokens"], results["bytes"]) == (len(held_out), len(held_out))
    assert results["gzip_bits_per_byte"] == 8 * len(gzip.compress(held_out.encode(), 9, mtime=0)) / len(held_out)
    # Scored by hand: windows of the context, the first behind the end of a document, the last reaching back to be full.
    ids = np.array([tokenizer.end_id, *tokenizer.encode(held_out)])
    total, done = 0.0, 0
    while done < len(ids) - 1:
        end = min(done + 16, len(ids) - 1)
        begin = max(end - 16, 0)
        logits = np.asarray(model(ids[None, begin:end])[0], "float64")
        nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(end - begin), ids[begin + 1 : end + 1]]
        total, done = total + nll[done - begin :].sum(), end
    assert results["loss"] == pytest.approx(total / len(held_out), rel=1e-5)
    assert results["bits_per_byte"] == pytest.approx(total / np.log(2) / len(held_out), rel=1e-5)


@pytest.mark.soak
def test_a_run_is_repeated_from_its_settings_to_the_bit(run, tmp_path):
    assert main(["train", "--config", str(run / "settings.yaml"), "--out", str(tmp_path / "again")]) == 0
    first, again = (read_json(folder / "run.json") for folder in (run, tmp_path / "again"))
    assert first["data"] == again["data"] and first["tokenizer"] == again["tokenizer"]
    assert first["results"]["loss"] == again["results"]["loss"]
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()


def test_an_interrupted_run_can_be_read_and_is_known_to_be_unfinished(corpus, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kerasllm.callbacks.Throughput.on_epoch_end", interrupt)
    settings = {**SMALL, "data": str(corpus), "out": str(tmp_path / "run")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert read_json(tmp_path / "run" / "run.json")["settings"]["steps"] == 25
    assert (tmp_path / "run" / "log.csv").is_file()
    kerasllm.tokenizers.Tokenizer.load(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"not a finished run folder: it has no manifest\.json"):
        kerasllm.load(tmp_path / "run")


def test_train_says_before_it_begins_what_keeps_a_model_from_transformers(corpus, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "_record", interrupted)
    arguments = ["train", "--data", str(corpus), "--preset", "palm-laptop", "--context", "16", "--tokenizer", "char"]
    assert main([*arguments, "--batch-size", "4", "--steps", "1", "--out", str(tmp_path / "run")]) != 0
    assert "and parallel=True (there False). Only a run folder can hold it." in capsys.readouterr().out


def test_evaluate_finds_what_train_recorded(run, corpus, tmp_path, capsys):
    text = corpus.read_text()
    (tmp_path / "held-out.txt").write_text(text[int(len(text) * 0.9) :])
    capsys.readouterr()
    assert main(["evaluate", "--run", str(run), "--data", str(tmp_path / "held-out.txt"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    results = read_json(run / "run.json")["results"]
    assert figures == pytest.approx({name: results[name] for name in figures}, rel=1e-6)
    assert main(["evaluate", "--run", str(run), "--data", str(tmp_path / "held-out.txt"), "--stride", "4"]) == 0
    assert "bits per byte" in capsys.readouterr().out


def test_generate_streams_what_the_package_generates(run, monkeypatch, capsys):
    model, tokenizer = kerasllm.load(run)
    assert main(["generate", "--run", str(run), "--prompt", "the c", "--max-new-tokens", "9"]) == 0
    assert capsys.readouterr().out == "the c" + kerasllm.generate(model, tokenizer, "the c", 9) + "\n"
    monkeypatch.setattr(kerasllm, "load", lambda *_, **__: (model, tokenizer))  # whose loops are compiled once
    arguments = ["generate", "--run", str(run), "--prompt", "the c", "--max-new-tokens", "9"]
    for flags, options in [
        (["--seed", "1", "--top-k", "5"], {"sampler": "random", "seed": 1, "top_k": 5}),
        (["--sampler", "min_p", "--min-p", "0.2", "--seed", "2"], {"sampler": "min_p", "min_p": 0.2, "seed": 2}),
        (["--stop", " ", "--stop", "x"], {"stop": [" ", "x"]}),
    ]:
        capsys.readouterr()
        assert main([*arguments, *flags]) == 0
        assert capsys.readouterr().out == "the c" + kerasllm.generate(model, tokenizer, "the c", 9, **options) + "\n"


@pytest.mark.soak
def test_export_is_checked_against_the_model(run, tmp_path, capsys):
    from kerasllm.export import comparison

    assert main(["export", str(run), str(tmp_path / "served")]) == 0
    assert "takes text and returns text" in " ".join(capsys.readouterr().out.split())
    model, tokenizer = kerasllm.load(run)
    weight = model.weights[1]
    weight.assign(weight + 0.1)
    with pytest.raises(ValueError, match="does not do what the model does"):
        comparison.check(model, tokenizer, tmp_path / "served")
    model, tokenizer = kerasllm.load(run)
    tokenizer.decode = str
    with pytest.raises(ValueError, match="does not read or write text"):
        comparison.check(model, tokenizer, tmp_path / "served")
    assert main(["export", str(run), str(tmp_path / "served")]) == 2
    assert "served exists" in capsys.readouterr().err


@pytest.mark.soak
def test_a_model_is_converted_and_back(tmp_path, capsys):
    ours, theirs, back, served = (str(tmp_path / name) for name in ("ours", "theirs", "back", "served"))
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["the cat saw a dog"], kind="char", progress=False)
    sizes = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 20, "max_length": 32}
    config = kerasllm.models.TransformerConfig.preset("llama", vocab_size=tokenizer.vocab_size, **sizes)
    kerasllm.save(kerasllm.models.CausalLM(config), tokenizer, ours)
    assert main(["convert", ours, theirs]) == 0
    assert "theirs is a folder in Hugging Face's format with a CausalLM of" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", theirs, back]) == 0
    assert "back is a run folder with a CausalLM of" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", theirs, served, "--to", "saved-model"]) == 0
    assert "takes text and returns text" in " ".join(capsys.readouterr().out.split())
    written = []
    for folder in (ours, theirs):
        assert main(["generate", "--model", folder, "--prompt", "the c", "--max-new-tokens", "9"]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1]
    for found, expected in zip(*(kerasllm.load(folder)[0].get_weights() for folder in (back, ours)), strict=True):
        np.testing.assert_array_equal(found, expected)
    for to in ("run", "huggingface", "saved-model"):
        assert main(["convert", theirs, back, "--to", to]) == 2
        assert "back exists, and is left as it is" in capsys.readouterr().err


def test_chat_answers_line_by_line(run, tmp_path, monkeypatch, capsys):
    model, tokenizer = kerasllm.load(run)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    kerasllm.save(model, tokenizer, tmp_path / "chat")
    asked = [{"role": "system", "content": "a"}, {"role": "user", "content": "cat"}]
    first = kerasllm.chat(model, tokenizer, asked, max_new_tokens=2)
    second = kerasllm.chat(
        model,
        tokenizer,
        [*asked, {"role": "assistant", "content": first}, {"role": "user", "content": "dog"}],
        max_new_tokens=2,
    )
    arguments = ["chat", "--model", str(tmp_path / "chat"), "--system", "a", "--max-new-tokens", "2"]
    monkeypatch.setattr("sys.stdin", io.StringIO("cat\n\ndog"))
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{first}\n{second}\n"


@pytest.mark.soak  # beside the quickstart itself, which .ci/run runs
def test_quickstart_goes_all_the_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "SETTINGS", merge_settings(quickstart.SETTINGS, {**SMALL, "steps": 2}))
    monkeypatch.setattr(quickstart, "PROMPT", "The")
    (tmp_path / "quickstart").mkdir()
    assert main(["quickstart", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert list((tmp_path / "quickstart").iterdir()) == []
    kerasllm.load("quickstart-2")
    assert (tmp_path / "quickstart-2" / "saved_model" / "saved_model.pb").is_file()
    for words in ["bits per byte of gzip -9", "tokens/s", "What it writes", "kerasllm generate --run quickstart-2"]:
        assert words in printed
    assert main(["quickstart", "--out", "quickstart-2"]) == 2


BAD_RUNS = {
    "nothing to train on": (["--out", "new"], "Nothing to train on"),
    "no place": (["--data", "good.txt"], "No place for the run"),
    "existing folder": (["--data", "good.txt", "--out", "taken"], "taken exists, and is left as it is"),
    "missing file": (["--data", "missing.txt", "--out", "new"], "missing.txt"),
    "empty file": (["--data", "empty.txt", "--out", "new"], "holds no text"),
    "not UTF-8": (["--data", "latin.txt", "--out", "new"], "latin.txt is not UTF-8: byte 3"),
    "too short": (["--data", "short.txt", "--out", "new", "--tokenizer", "char"], "fewer than one batch"),
    "several columns": (["--data", "table.csv", "--out", "new"], "the columns 'a', 'b', and which of them is the text"),
    "no such column": (["--data", "table.csv", "--field", "c", "--out", "new"], "table.csv, line 2 has no text in a"),
    "two columns": (["--data", "table.csv", "--field", "a", "b", "--out", "new"], "field takes 1 for the task causal"),
    "unknown data set": (["--data", "tfds:tiny_shakespear", "--out", "new"], "Did you mean tiny_shakespeare"),
    "unknown preset": (["--data", "good.txt", "--out", "new", "--preset", "gpt9"], "Unknown preset 'gpt9'"),
    "heads": (["--data", "good.txt", "--out", "new", "--d-model", "30", "--heads", "4"], "must be divisible"),
    "vocabulary": (["--data", "good.txt", "--out", "new", "--vocab-size", "9"], "vocab_size=9 is too small"),
    "tokenizer": (["--data", "good.txt", "--out", "new", "--tokenizer", "word"], "No tokenizer at word"),
    "both lengths": (["--data", "good.txt", "--out", "new", "--steps", "1", "--epochs", "1"], "give one"),
    "negative": (["--data", "good.txt", "--out", "new", "--lr", "-1"], "rate takes a number of at least 0, not -1"),
    "no YAML": (["--config", "missing.yaml", "--out", "new"], "There is no settings file missing.yaml"),
    "YAML key": (["--config", "bad.yaml", "--out", "new"], "unknown setting 'batchsize'. Did you mean `batch_size`"),
}


@pytest.mark.parametrize(("flags", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_bad_input_is_one_sentence_and_leaves_everything_as_it_was(flags, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text("a good text of some words. " * 100)
    (tmp_path / "short.txt").write_text("a short text")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "table.csv").write_text("a,b\none,two\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "bad.yaml").write_text("batchsize: 3\ndata: good.txt")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", *flags]) == 2
    errors = capfd.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("kerasllm train: ") and message in errors[-1]
    assert not any("Traceback" in line for line in errors)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "taken" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--run", "nowhere", "--data", "python_docs"], "There is no run folder nowhere"),
        (["generate", "--run", "RUN", "--prompt", "the", "--sampler", "beam"], "Unknown sampler 'beam'"),
        (["generate", "--run", "RUN", "--prompt", "the", "--sampler", "greedy", "--top-k", "3"], "greedy sampler"),
        (["generate", "--run", "RUN", "--prompt", "the" * 20], "16"),
        (["evaluate", "--run", "RUN", "--data", "python_docs", "--stride", "99"], "stride=99"),
        (
            ["evaluate", "--run", "RUN", "--data", "python_docs", "--field", "a", "b"],
            "--field takes 1 for a CausalLM",
        ),
        (["chat", "--model", "RUN"], "has no chat template: its model was not trained to chat"),
        (["convert", "nowhere", "new"], "There is no run folder nowhere"),
    ],
)
def test_the_other_commands_say_what_is_wrong(run, arguments, message, capsys):
    assert main([str(run) if part == "RUN" else part for part in arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.strip().splitlines()) == 1 and not printed.out
    with pytest.raises((ValueError, OSError)):
        main([*(str(run) if part == "RUN" else part for part in arguments), "--debug"])


def test_quickstart_makes_as_many_steps_as_fit_into_its_time(monkeypatch):
    settings = TrainSettings(**merge_settings(quickstart.SETTINGS, {**SMALL, "steps": 500, "out": "run"}))
    seconds = itertools.count(0, 0.25)  # a step takes 0.25 s
    monkeypatch.setattr(quickstart, "time", types.SimpleNamespace(perf_counter=lambda: next(seconds)))
    found = [quickstart.steps_within(time, settings) for time in (1, 30, float("inf"))]
    assert found == [quickstart.FEWEST_STEPS, 120, 500]


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["train", "--step", "3"], ["train", "--steps", "many"], ["quickstart", "--minutes", "0"]],
)
def test_a_wrong_flag_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "usage: kerasllm" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["quickstart", "train", "evaluate", "generate", "chat", "export", "convert"])
def test_every_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"example:\n  kerasllm {command}" in capsys.readouterr().out


def test_names_are_those_of_python():
    python = {
        data.causal_lm_dataset: {"batch_size", "epochs", "seed", "packed"},
        data.seq2seq_dataset: {"batch_tokens", "max_length"},
        data.read_text: {"field"},
        CausalLM.compile: {"optimizer", "micro_batches"},
        TokenCrossentropy.__init__: {"label_smoothing"},
        AdamW.__init__: {"learning_rate", "weight_decay"},
        Tokenizer.train: {"vocab_size"},
        kerasllm.translate: {"num_beams", "target_language"},
        kerasllm.evaluation.perplexity: {"stride"},
    }
    for function, names in python.items():
        assert names <= inspect.signature(function).parameters.keys(), function
    commands = (
        parse(["train"]),
        parse(["translate", "--model", "a"]),
        parse(["evaluate", "--model", "a", "--data", "b"]),
    )
    settings = {setting.name for setting in dataclasses.fields(TrainSettings)} | MODEL_FLAGS.keys()
    flags = settings.union(*(vars(arguments) for arguments in commands))
    assert set().union(*python.values()) <= flags
    assert MODEL_FLAGS.keys() <= {field.name for field in dataclasses.fields(TransformerConfig)}


def test_settings_take_what_yaml_makes_of_numbers():
    settings = TrainSettings(data="a.txt", out="run", lr="1e-3", steps=5.0, dropout=0)
    assert (settings.data, settings.learning_rate, settings.steps) == (("a.txt",), 0.001, 5)
    assert TrainSettings(**settings.to_dict()) == settings
    for wrong in [{"steps": 2.5}, {"steps": True}, {"lr": "fast"}, {"lr": "nan"}, {"data": [1]}, {"seed": None}]:
        name = {"lr": "learning_rate"}.get(*[next(iter(wrong))] * 2)
        with pytest.raises(ValueError, match=f"{name} takes"):
            TrainSettings(**{"data": "a.txt", "out": "run", **wrong})


def test_a_corpus_is_split_where_nanogpt_splits_it(tmp_path):
    (tmp_path / "a.txt").write_text("é" * 30)
    (tmp_path / "b.txt").write_text("b" * 71)
    training, validation = (Corpus((str(tmp_path),), part) for part in ("train", "valid"))
    for _ in range(2):
        assert list(training) == ["é" * 30, "b" * 60] and list(validation) == ["b" * 11]
    assert Measured(training).measures()["bytes"] == 120
    assert Measured(Corpus((str(tmp_path),))).measures()["sha256"] != Measured(training).measures()["sha256"]
    (tmp_path / "table.csv").write_text(f"id,a,b\n7,one,{'two' * 10}\n")
    parts = [list(Corpus((str(tmp_path / "table.csv"),), part, "b")) for part in ("all", "train", "valid")]
    assert parts == [["two" * 10], ["two" * 9], ["two"]]


def test_the_optimizer_and_its_schedule_are_chosen():
    settings = TrainSettings(data=("text",), out="run", optimizer="muon", schedule="stable", lr=0.5, weight_decay=0.3)
    chosen = recipe.optimizer_of(settings, steps=1000)
    assert (type(chosen), chosen.weight_decay) == (Muon, 0.3)
    rate = chosen._learning_rate
    assert [float(rate(step)) for step in (50, 100, 500, 750, 1000)] == [0.25, 0.5, 0.5, 0.25, 0]
    usual = recipe.optimizer_of(TrainSettings(data=("text",), out="run"), steps=1000)
    assert (type(usual), float(usual._learning_rate(1000))) == (AdamW, pytest.approx(1e-4))
