"""Checkpoints: what goes on from one ends as what was never interrupted, and a damaged one is never used."""

import csv
import json
import os
import random
import resource
import shutil
import signal
import threading

import keras
import numpy as np
import pytest

import kerasllm
from kerasllm.callbacks import Checkpoint, RunLog, RunPlot, checkpoint_folder
from kerasllm.callbacks.checkpoint_folder import checkpoints
from kerasllm.callbacks.interruption import Interruption

STEPS, EPOCHS = 7, 3
TEXT = "the cat saw a dog and the dog saw a tree, where a cat slept. " * 20


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.tokenizers.Tokenizer.train([TEXT], kind="char", progress=False)


def new_model(tokenizer, d_model=12, seed=5):
    """A compiled model with all that has a state: dropout, a schedule, an average of weights, parts of batches."""
    keras.utils.set_random_seed(seed)
    config = kerasllm.models.TransformerConfig(tokenizer.vocab_size, 1, d_model, 2, 20, max_length=16, dropout=0.3)
    model = kerasllm.models.CausalLM(config)
    schedule = kerasllm.optimizers.warmup_cosine(3e-2, 3, STEPS * EPOCHS)
    model.compile(kerasllm.optimizers.AdamW(schedule, use_ema=True, ema_momentum=0.7), micro_batches=2)
    return model


class StopBefore(keras.callbacks.Callback):
    """Ends `fit`, as a power cut would, before some step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the power is off")


class Signal(StopBefore):
    def __init__(self, step, number):
        super().__init__(step)
        self.number = number

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def train(folder, tokenizer, *more, **options):
    """The program of the docstring: it starts a run, and goes on with one. Returns (model, checkpoint)."""
    model = new_model(tokenizer, seed=random.randrange(2**20) if folder.exists() else 5)
    log, plot = RunLog(folder / "log"), RunPlot(folder / "plot.png")
    checkpoint = Checkpoint(
        folder / "checkpoints", **{"every_steps": 1, **options}, tokenizer=tokenizer, callbacks=[log, plot]
    )
    start_step = checkpoint.restore(model)
    dataset = kerasllm.data.causal_lm_dataset(
        [TEXT], tokenizer, seq_len=16, batch_size=4, epochs=EPOCHS, start_step=start_step, progress=False
    )
    validation = kerasllm.data.causal_lm_dataset(
        [TEXT[:200]], tokenizer, seq_len=16, batch_size=4, shuffle=False, progress=False
    )
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(
        dataset,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=validation,
        callbacks=[checkpoint, swap, log, plot, *more],
        verbose=0,
    )
    return model, checkpoint


def state_of(model):
    return [keras.ops.convert_to_numpy(variable) for variable in (*model.variables, *model.optimizer.variables)]


def log_of(folder):
    """The columns of a log that do not tell the time."""
    rows = list(csv.DictReader((folder / "log" / "log.csv").open()))
    summary = json.loads((folder / "log" / "log.json").read_text())
    names = ("step", "epoch", "loss", "perplexity", "learning_rate", "val_loss", "val_perplexity")
    return [[row[name] for name in names] for row in rows], [
        (e["step"], e["loss"], e["val_loss"]) for e in summary["epochs"]
    ]


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """A run that is never interrupted: its folder and what it ended with."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    model, checkpoint = train(folder, tokenizer, every_steps=4)
    assert checkpoint.step == STEPS * EPOCHS
    return folder, state_of(model)


@pytest.fixture(scope="module")
def interrupted(tokenizer, tmp_path_factory):
    """A run that ended after step 11."""
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    with pytest.raises(SystemExit):
        train(folder, tokenizer, Signal(11, signal.SIGTERM), keep=4)
    return folder


@pytest.fixture
def run(interrupted, tmp_path):
    """A copy of it, and its checkpoints."""
    shutil.copytree(interrupted, tmp_path / "run")
    return tmp_path / "run", checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.soak
def test_a_run_goes_on_to_the_bit_from_anywhere(whole, tokenizer, tmp_path):
    """In the middle of an epoch, at its beginning and before its last step; the log has each line once."""
    folder, expected = whole
    for steps in (3, 4, 6):  # from 0 to 3, 7 and 13
        with pytest.raises(RuntimeError, match="the power is off"):
            train(tmp_path / "run", tokenizer, StopBefore(steps))
    model, _ = train(tmp_path / "run", tokenizer)
    for before, after in zip(expected, state_of(model), strict=True):
        np.testing.assert_array_equal(before, after)
    assert log_of(folder) == log_of(tmp_path / "run")
    assert len(log_of(folder)[0]) == 1 + 2 + EPOCHS


@pytest.mark.soak
def test_the_newest_and_the_best_are_kept_and_are_run_folders(tokenizer, tmp_path):
    model, checkpoint = train(tmp_path / "run", tokenizer, every_steps=2, keep=3)
    losses = {step: loss for step, _, loss in log_of(tmp_path / "run")[1]}
    assert checkpoint.best == min(losses, key=losses.get)
    kept = checkpoints(tmp_path / "run" / "checkpoints")
    assert list(kept) == sorted({checkpoint.best, 18, 20, 21})
    loaded, reread = kerasllm.load(kept[21])
    assert reread.fingerprint() == tokenizer.fingerprint()
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("number", "error"),
    [pytest.param(signal.SIGTERM, SystemExit, marks=pytest.mark.soak), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_saves_after_the_step(tokenizer, tmp_path, number, error, capsys):
    """How a run goes on behind it: test_cli_resume.py."""
    before = signal.getsignal(number)
    with pytest.raises(error) as ended:
        train(tmp_path / "run", tokenizer, Signal(10, number), every_steps=100)
    assert signal.getsignal(number) == before
    assert number == signal.SIGINT or ended.value.code == 143
    assert list(checkpoints(tmp_path / "run" / "checkpoints"))[-1] == 10
    assert "Stopped after step 10" in capsys.readouterr().err


def test_the_second_signal_ends_at_once_and_later_ones_are_not_held():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background is to ignore it
    held = Interruption()

    def fit(signals):
        held.hold()
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)

    fit(1)
    assert held.signal == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        fit(2)
    fit(0)  # ends by an error, say
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    thread = threading.Thread(target=fit, args=[0])
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_damage_is_found(run, tmp_path):
    """1,000 changed bytes and 200 cut files, at random places of a checkpoint."""
    _, found = run
    place = tmp_path / "copy"
    shutil.copytree(found[max(found)], place)
    checkpoint_folder.check(place)
    files = {path: path.read_bytes() for path in place.iterdir()}
    draw = random.Random(0)
    weights = [len(content) for content in files.values()]
    for damage in ["flip"] * 1000 + ["cut"] * 200:
        # Half of them anywhere, half in a file that is drawn first: most of the bytes are weights.
        path = draw.choices(list(files), weights if draw.random() < 0.5 else None)[0]
        content = bytearray(files[path])
        at = draw.randrange(len(content))
        if damage == "cut":
            del content[at:]
        else:
            content[at] ^= draw.randrange(1, 256)
        path.write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=r"\.json|\.safetensors"):
            checkpoint_folder.check(place)
        path.write_bytes(files[path])
    checkpoint_folder.check(place)


def test_resuming_falls_back_to_the_newest_whole_one_and_says_so(run, tokenizer):
    folder, found = run
    *_, second, last = found.values()
    (last / "model.safetensors").write_bytes((last / "model.safetensors").read_bytes()[:-1])
    (second / "training.json").unlink()
    checkpoint = Checkpoint(folder / "checkpoints", callbacks=[RunLog(folder / "log"), RunPlot(folder / "plot.png")])
    with pytest.warns(UserWarning) as warned:
        assert checkpoint.restore(new_model(tokenizer)) == 9
    said = " ".join(str(warning.message) for warning in warned)
    assert f"{last / 'model.safetensors'} is not the file that was saved" in said
    assert f"{second} has no training.json" in said
    assert list(checkpoints(folder / "checkpoints")) == sorted(found.keys() - {10, 11})
    for path in checkpoints(folder / "checkpoints").values():
        (path / "manifest.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"None of the \d checkpoints in .* is whole"):
        checkpoint.restore(new_model(tokenizer))


def test_no_manifest_leads_outside_its_folder(run, tmp_path):
    _, found = run
    path = found[max(found)]
    (tmp_path / "secret").write_text("secret")
    (path / "link").symlink_to(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    for name in ("../../../../secret", "/etc/passwd", "link/secret", "a\0b"):
        files = {**manifest["files"], name: "0" * 64}
        kerasllm.files.write_json(path / "manifest.json", kerasllm.files._signed(files))
        with pytest.raises(ValueError, match="is outside its folder"):
            checkpoint_folder.check(path)


def test_a_full_disk_is_a_warning_and_older_checkpoints_stay_whole(tokenizer, tmp_path):
    """A limit on the size of files stands for the disk: it falls when the run has been saved once."""

    class FullDisk(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if checkpoints(tmp_path / "run" / "checkpoints"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = new_model(tokenizer)
    checkpoint = Checkpoint(tmp_path / "run" / "checkpoints", every_steps=3)
    dataset = kerasllm.data.causal_lm_dataset([TEXT], tokenizer, 16, 4, epochs=EPOCHS, progress=False)
    try:
        with pytest.warns(UserWarning, match=r"Could not write .* Training goes on; checkpoints of steps: 3"):
            model.fit(dataset, epochs=EPOCHS, steps_per_epoch=STEPS, callbacks=[checkpoint, FullDisk()], verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert int(model.optimizer.iterations) == STEPS * EPOCHS
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    assert Checkpoint(tmp_path / "run" / "checkpoints").restore(new_model(tokenizer)) == 3


def test_what_does_not_fit_is_refused_and_nothing_is_half_loaded(run, tokenizer):
    folder, _ = run
    checkpoint = Checkpoint(folder / "checkpoints", callbacks=[RunLog(folder / "log"), RunPlot(folder / "plot.png")])
    wider = new_model(tokenizer, d_model=16)
    before = state_of(wider)
    with pytest.raises(ValueError, match="is of another model: config: d_model: 12 there, 16 here"):
        checkpoint.restore(wider)
    for ours, theirs in zip(before, state_of(wider), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = new_model(tokenizer)
    other.compile(kerasllm.optimizers.Muon(1e-3))
    with pytest.raises(ValueError, match="is of another optimizer: 'AdamW' there, 'Muon' here"):
        checkpoint.restore(other)
    with pytest.raises(ValueError, match="no weights or no optimizer yet"):
        checkpoint.restore(kerasllm.models.CausalLM(other.config))
    ids = np.ones((40, 16), "int32")
    with pytest.raises(FileExistsError, match="holds checkpoints of another run"):
        other.fit(ids, ids, batch_size=4, callbacks=[Checkpoint(folder / "checkpoints")], verbose=0)
    model = new_model(tokenizer)
    assert checkpoint.restore(model) == 11
    with pytest.raises(ValueError, match=r"have 7 steps, and those of this fit 10: give fit steps_per_epoch=7"):
        model.fit(ids, ids, batch_size=4, callbacks=[checkpoint], verbose=0)
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoint(folder, keep=0)


def test_weights_that_are_not_finite_are_not_saved(tokenizer, tmp_path):
    model = new_model(tokenizer)
    model.compile(keras.optimizers.SGD())  # not ours, which would train on
    model.weights[0].assign(model.weights[0] * np.nan)
    ids = np.ones((8, 16), "int32")
    with pytest.warns(UserWarning, match="The weights after step 2 are not finite"):
        model.fit(ids, ids, batch_size=4, callbacks=[Checkpoint(tmp_path / "checkpoints")], verbose=0)
    assert not checkpoints(tmp_path / "checkpoints")
