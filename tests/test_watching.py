"""Runs that are watched: trackers, what happens in layers, texts on the way, and runs side by side."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm import callbacks, interpret
from kerasllm.callbacks import tracker as tracker_module
from kerasllm.cli import main
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.settings import TrainSettings
from kerasllm.settings.train_settings import TRACKERS
from kerasllm.tokenizers import Tokenizer

TEXT = "to be or not to be that is the question " * 40


class Place:
    """A tracker's place that keeps what it is sent, until it fails."""

    modules = "math"
    made = []

    def __init__(self, folder, settings, run_id):
        self.run_id, self.settings, self.found, self.said, self.is_closed = run_id or "new", settings, {}, {}, False
        self.made.append(self)

    def scalars(self, step, values):
        if any(name.startswith("watch/") for name in values):
            raise ConnectionError("the server\nis gone")
        self.found[step] = values

    def texts(self, step, texts):
        self.said[step] = texts

    def close(self):
        self.is_closed = True


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A model of one block after a fit of two epochs of two steps with all of them."""
    folder = tmp_path_factory.mktemp("watched")
    tokenizer = Tokenizer.train([TEXT], kind="char")
    config = TransformerConfig(tokenizer.vocab_size, num_layers=1, d_model=16, num_heads=2, dff=16, max_length=16)
    model = CausalLM(config)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)  # which is quicker than to compile it
    data = kerasllm.data.causal_lm_dataset([TEXT], tokenizer, seq_len=16, batch_size=4, epochs=2)
    batch = next(iter(data))
    gone = "kept did not take what it was sent; training goes on: the server is gone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kerasllm.generation.stepping.CachedStepper.uses_xla", False)
        patch.setitem(tracker_module.TRACKERS, "kept", Place)
        tracker = callbacks.Tracker("kept", folder / "run", {"seed": 1}, tokens_per_step=64, every=1)
        log = callbacks.RunLog(folder / "run", tokens_per_step=64, every=1)
        watch = callbacks.LayerWatch(batch, folder / "watch.jsonl", every=1, trackers=[tracker], most_share=1e9)
        samples = callbacks.TextSamples(["to", "or"], tokenizer, folder / "samples.md", [tracker], max_new_tokens=4)
        weights = [[np.array(w) for w in model.trainable_variables]]
        keep = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: weights.append([np.array(w) for w in model.trainable_variables])
        )
        watching = [log, tracker, watch, samples, keep]
        with pytest.warns(UserWarning, match=gone):
            model.fit(data, epochs=2, steps_per_epoch=2, callbacks=watching, verbose=0, shuffle=False)
    return model, tokenizer, batch, folder, weights, watch, samples


def test_a_tracker_gets_what_the_log_has(watched):
    (place,), log = Place.made, (watched[3] / "run" / "log.csv").read_text().splitlines()
    header, *rows = (line.split(",") for line in log)
    for row in rows:
        for name, cell in zip(header, row, strict=True):
            if cell and name not in ("step", "epoch", "seconds", "tokens_per_second", "val_loss"):
                assert place.found[int(row[0])][name] == pytest.approx(float(cell), rel=1e-4), name
    assert sorted(place.found) == [1, 2, 3, 4] and place.is_closed and place.settings == {"seed": 1}


def norm(arrays):
    return math.sqrt(sum(np.square(array).sum() for array in arrays))


def test_layers_are_measured_as_they_are(watched):
    model, _, (ids, labels, weight), folder, weights, watch, _ = watched
    first = watch.rows[0]
    assert [row["step"] for row in watch.rows] == [0, 1, 2, 3]
    for number, row in enumerate(watch.rows):
        changes = [b - a for a, b in zip(*weights[number : number + 2], strict=True)]
        assert row["update_ratio/all"] == pytest.approx(norm(changes) / norm(weights[number + 1]), rel=1e-3)
    for variable, value in zip(model.trainable_variables, weights[0], strict=True):
        variable.assign(value)
    log_probs = ops.log_softmax(ops.cast(model(ids), "float32"), axis=-1)
    losses = -np.take_along_axis(np.array(log_probs), np.array(labels)[..., None], axis=-1)[..., 0]
    assert first["loss"] == pytest.approx((losses * np.array(weight)).sum() / np.array(weight).sum(), rel=1e-5)
    (found,) = interpret.activations(model, {"token_ids": np.array(ids)}, ["block_0/output"]).values()
    assert first["activation_rms/block_0"] == pytest.approx(math.sqrt(np.square(found).mean()), rel=1e-4)
    # The first step took the same batch, by a plain gradient and a rate of 0.1.
    change = [b - a for a, b in zip(weights[0], weights[1], strict=True)]
    assert first["gradient_norm/all"] == pytest.approx(norm(change) / 0.1, rel=1e-3)
    parts = [value for name, value in first.items() if name.startswith("gradient_norm/") and not name.endswith("all")]
    assert len(parts) == 3 and first["gradient_norm/all"] == pytest.approx(norm(parts))
    lines = (folder / "watch.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    watch.set_state({"step": 2})  # a run that goes on from there measures the rest anew
    assert (folder / "watch.jsonl").read_text().splitlines() == lines[:2]


def test_measurements_take_no_more_of_the_time_than_they_may(watched, monkeypatch):
    model, _, batch, _, weights, watch, _ = watched
    now, rows, found, compared = [0.0], {}, watch._measure(watch._batch), watch._compare(weights[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    for share in (1.0, 0.02):
        seldom = callbacks.LayerWatch(batch, every=1, most_share=share)
        seldom.set_model(model)

        def measure(batch):
            now[0] += 1.0
            return found

        seldom._batch, seldom._measure, seldom._compare = watch._batch, measure, lambda _: compared
        seldom._groups = watch._groups
        seldom.on_epoch_begin(0)
        for step in range(200):
            seldom.on_train_batch_begin(step)
            now[0] += 1.0  # as long as a measurement
            seldom.on_train_batch_end(step)
        rows[share] = len(seldom.rows)
    assert rows[1.0] > 60 and rows[0.02] <= 200 / 50 + 2  # the first is not counted


def test_texts_are_those_that_generate_gives(watched):
    model, tokenizer, _, folder, weights, _, samples = watched
    for variable, value in zip(model.trainable_variables, weights[-1], strict=True):
        variable.assign(value)
    again = kerasllm.generate(model, tokenizer, ["to", "or"], 4, temperature=0.8, seed=0)
    assert samples.texts[-1] == again and len(samples.texts) == 2
    assert Place.made[0].said[4] == {"sample_0": "to" + again[0], "sample_1": "or" + again[1]}
    page = (folder / "samples.md").read_text()
    assert page.count("## Epoch") == 2 and f"> **or**{again[1]}" in page


def test_trackers_are_known_before_anything_is_read():
    assert tuple(name for name in tracker_module.TRACKERS if name != "kept") == TRACKERS
    settings = TrainSettings(data="a", out="b", log_to=["tensorboard,mlflow", "wandb"])
    assert settings.trackers() == ["tensorboard", "mlflow", "wandb"]
    with pytest.raises(ValueError, match="log_to takes tensorboard, mlflow, wandb, not 'tensorflow'"):
        TrainSettings(data="a", out="b", log_to="tensorflow")
    with pytest.raises(ValueError, match="tracked by tensorboard, mlflow, wandb, got 'paper'"):
        callbacks.Tracker("paper", "run")


def test_tensorboard_reads_what_it_is_sent(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install kerasllm[track]")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    place = tracker_module.TRACKERS["tensorboard"](tmp_path, {"seed": 1}, None)
    place.scalars(3, {"loss": 2.5})
    place.texts(4, {"sample_0": "to be"})
    place.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert [(step, value.tag) for step, value in events] == [(0, "settings"), (3, "loss"), (4, "sample_0")]
    assert events[1][1].tensor.float_val[0] == 2.5 and events[2][1].tensor.string_val[0] == b"to be"


@pytest.fixture
def runs(tmp_path):
    for name, rate, losses in (("a/slow", 1e-4, (3.0, 2.5)), ("fast", 1e-3, (2.0, 2.25)), (".draft", 1, (9.0,))):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        settings = {"task": "causal", "out": name, "learning_rate": rate, "model": {"d_model": 8}}
        (folder / "run.json").write_text(json.dumps({"settings": settings, "model": {"parameters": 1234}}))
        lines = [f"{n},{100 * n},{loss + 1},{loss}" for n, loss in enumerate(losses, 1)]
        (folder / "log.csv").write_text("\n".join(["step,tokens,loss,val_loss", *lines, "9,900,1.5,"]))
    (tmp_path / "fast" / "manifest.json").write_text("{}")
    return tmp_path


def test_runs_are_compared(runs, capsys):
    slow, fast = callbacks.read_runs(runs)
    assert (slow.name, slow.is_finished, slow.best("val_loss")) == ("a/slow", False, 2.5)
    assert (fast.name, fast.is_finished, fast.best("val_loss"), fast.last("val_loss")) == ("fast", True, 2.0, 2.25)
    assert callbacks.differing_settings([slow, fast]) == [{"learning_rate": 1e-4}, {"learning_rate": 1e-3}]
    assert main(["runs", str(runs), "--json", "--plot", str(runs / "all.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["steps"], one["tokens"], one["lowest_val_loss"]) for one in found] == [(9, 900, 2.5), (9, 900, 2.0)]
    assert (runs / "all.png").read_bytes().startswith(b"\x89PNG")
    assert main(["runs", str(runs)]) == 0 and "learning_rate=0.001" in capsys.readouterr().out
    (runs / "none").mkdir()
    assert main(["runs", str(runs / "none")]) == 2 and "holds no run" in capsys.readouterr().err


@pytest.mark.soak
def test_a_run_is_watched_and_its_checkpoints_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kerasllm.recipe.ROUNDS", 2)
    (tmp_path / "text.txt").write_text(TEXT * 10)
    run = tmp_path / "run"
    sizes = ["--tokenizer", "char", "--layers", "1", "--d-model", "16", "--heads", "2", "--context", "32"]
    steps = ["--steps", "6", "--batch-size", "4", "--save-every", "2", "--keep-checkpoints", "3"]
    watching = ["--watch-layers", "2", "--sample", "to be"]
    arguments = ["train", "--data", str(tmp_path / "text.txt"), "--out", str(run), *sizes, *steps, *watching]
    assert main(arguments) == 0
    assert len((run / "watch.jsonl").read_text().splitlines()) >= 1
    assert (run / "samples.md").read_text().count("**to be**") == 2
    assert len(list((run / "checkpoints").iterdir())) == 3
    capsys.readouterr()
    asked = ["evaluate", "--model", str(run), "--checkpoints", "--tasks", "induction", "--limit", "4", "--json"]
    assert main([*asked, "--plot", str(tmp_path / "steps.png")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [*found][-1] == "6" and len(found) == 3
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
