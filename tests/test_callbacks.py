"""The callbacks of a run, on a model whose loss in every step is known beforehand."""

import csv
import json
import math
import re
import resource

import keras
import numpy as np
import pytest

from kerasllm.callbacks import RunLog, RunPlot, Throughput, measure_matmul_peak, step_clock
from kerasllm.callbacks.run_plot import draw_run

STEPS, BATCH, LENGTH = 25, 2, 4


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Rates so small that the weights stay as they are, and each step's is another."""

    def __call__(self, step):
        return 1e-30 * (keras.ops.cast(step, "float32") + 1)


def known_run(steps_per_execution=1, learning_rate=0.0):
    """Returns (model, token ids, the loss of each step)."""
    rng = np.random.default_rng(0)
    table = rng.normal(0, 2, (5, 5)).astype("float32")
    model = keras.Sequential([keras.layers.Embedding(5, 5)])
    model.build((None, LENGTH))
    model.set_weights([table])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate), loss, steps_per_execution=steps_per_execution)
    ids = rng.integers(0, 5, (STEPS * BATCH, LENGTH))
    nll = np.log(np.exp(table).sum(-1))[ids] - table[ids, ids]
    return model, ids, nll.reshape(STEPS, -1).mean(-1)


def fit(model, ids, callbacks, epochs=1, verbose=0):
    validation = (ids[:BATCH], ids[:BATCH])
    return model.fit(ids, ids, BATCH, epochs, verbose, callbacks, validation_data=validation, shuffle=False).history


def read(folder):
    with open(folder / "log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((folder / "log.json").read_text())


class Clock:
    """In place of the real one: each look at it finds the time that the test set."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_clock, "time", clock)
    return clock


class Tick(keras.callbacks.Callback):
    """Makes every execution take 2 seconds, the first 50, and the pause after an epoch 1000."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def on_train_batch_end(self, batch, logs=None):
        self.clock.now += 2 if self.clock.now else 50

    def on_epoch_end(self, epoch, logs=None):
        self.clock.now += 1000


@pytest.mark.parametrize(("steps_per_execution", "timed"), [(1, 24 / 48), (4, 21 / 12)])
def test_throughput_times_steps_without_compilation_and_pauses(clock, steps_per_execution, timed):
    model, ids, _ = known_run(steps_per_execution)
    speed = Throughput(BATCH * LENGTH, flops_per_token=10, peak_flops=1000)
    history = fit(model, ids, [Tick(clock), speed], epochs=2)
    executions = math.ceil(STEPS / steps_per_execution)
    expected = np.array([timed, STEPS / (2 * executions)]) * BATCH * LENGTH
    np.testing.assert_allclose(history["tokens_per_second"], expected)
    np.testing.assert_allclose(history["matmul_peak_share"], expected * 10 / 1000)


def test_the_progress_bar_shows_the_speed(capsys):
    model, ids, _ = known_run()
    fit(model, ids, [Throughput(BATCH * LENGTH, flops_per_token=10)], verbose=1)
    assert re.search(r"loss: \S+ - tokens_per_second: \S+ - matmul_peak_share: ", capsys.readouterr().out)


def test_a_step_that_comes_late_adds_nothing(clock):
    counter = step_clock.StepClock()
    counter.begin_run(5)
    counter.begin_epoch()
    for clock.now, done in [(9, 1), (10, 3), (11, 2), (12, 8)]:
        counter.advance(done)
    assert counter.reading == (5, 4, 3.0)  # the last execution was cut short by the end of the epoch
    assert counter.reading.steps_per_second_since(counter.reading) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_matmul_peak_is_a_speed_that_machines_have(dtype):
    assert 1e8 < measure_matmul_peak(dtype) < 1e16


def test_log_rows_hold_the_loss_and_speed_of_the_steps_since_the_row_before(tmp_path, clock):
    model, ids, losses = known_run(learning_rate=Schedule())
    history = fit(model, ids, [Tick(clock), RunLog(tmp_path / "run", BATCH * LENGTH)], epochs=2)
    rows, summary = read(tmp_path / "run")
    steps = [1, 10, 20, 25, 30, 40, 50, 50]  # the last step has a row of its own, and the end of its epoch another
    assert [int(row["step"]) for row in rows] == steps
    assert [int(row["epoch"]) for row in rows] == [1] * 4 + [2] * 4
    assert [int(row["tokens"]) for row in rows] == [step * BATCH * LENGTH for step in steps]
    twice = np.concatenate([losses, losses])
    windows = [(0, 1), (1, 10), (10, 20), (20, 25), (25, 30), (30, 40), (40, 50), (40, 50)]
    expected = [twice[begin:end].mean() for begin, end in windows]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], expected, rtol=1e-5)
    np.testing.assert_allclose([float(row["perplexity"]) for row in rows], np.exp(expected), rtol=1e-5)
    np.testing.assert_allclose([float(row["learning_rate"]) for row in rows], np.array(steps) * 1e-30, rtol=1e-5)
    assert [bool(row["val_loss"]) for row in rows] == [step in (25, 50) and i != 6 for i, step in enumerate(steps)]
    assert float(rows[-1]["val_loss"]) == pytest.approx(losses[0], rel=1e-5)
    assert float(rows[-1]["val_perplexity"]) == pytest.approx(math.exp(losses[0]), rel=1e-5)
    assert [row["tokens_per_second"] for row in rows] == ["", *[f"{BATCH * LENGTH / 2:g}"] * 7]
    assert (summary["finished"], summary["steps"], summary["tokens"]) == (True, 50, 50 * BATCH * LENGTH)
    assert [epoch["loss"] for epoch in summary["epochs"]] == history["loss"]
    assert [epoch["val_loss"] for epoch in summary["epochs"]] == history["val_loss"]


def test_rows_keep_their_order_when_steps_overtake_each_other(tmp_path):
    model, _, losses = known_run()
    log = RunLog(tmp_path, every=2)
    log.set_model(model)
    log.set_params({"steps": 5})
    log.on_train_begin()
    log.on_epoch_begin(0)
    log.on_train_batch_begin(0)
    for batch in [1, 0, 3, 4, 2]:
        log.on_train_batch_end(batch, {"loss": float(losses[: batch + 1].mean())})
    log.on_epoch_end(0, {"loss": float(losses[:5].mean())})
    rows, _ = read(tmp_path)
    assert [int(row["step"]) for row in rows] == [1, 2, 4, 5]
    expected = [losses[0], losses[1], losses[2:4].mean(), losses[4]]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], expected, rtol=1e-5)


def test_a_second_fit_goes_on_in_the_same_log(tmp_path):
    model, ids, _ = known_run(steps_per_execution=4, learning_rate=Schedule())
    log = RunLog(tmp_path, every=12)
    for _ in range(2):
        fit(model, ids, [Throughput(BATCH * LENGTH), log])
    rows, summary = read(tmp_path)
    assert [int(row["step"]) for row in rows] == [4, 12, 24, 25, 37, 49, 50]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(50e-30, rel=1e-5)
    assert {row["tokens"] for row in rows} == {""}
    assert float(rows[-1]["tokens_per_second"]) > 0  # from Throughput
    assert summary["steps"] == 50 and len(summary["epochs"]) == 2


def test_a_crash_leaves_whole_lines(tmp_path):
    model, ids, losses = known_run()

    def fail(batch, logs):
        if batch == 16:
            raise KeyboardInterrupt

    crash = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(KeyboardInterrupt):
        fit(model, ids, [crash, RunLog(tmp_path)])
    rows, summary = read(tmp_path)
    assert [int(row["step"]) for row in rows] == [1, 10] and summary["finished"] is False
    assert float(rows[1]["loss"]) == pytest.approx(losses[1:10].mean(), rel=1e-5)


def test_a_full_disk_leaves_whole_lines_and_says_so(tmp_path):
    model, ids, _ = known_run()
    log = RunLog(tmp_path)
    fit(model, ids, [log])
    before = (tmp_path / "log.csv").read_bytes(), (tmp_path / "log.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[0]) + 10, limits[1]))  # room for part of a line
    try:
        with pytest.raises(OSError, match=r"what was written before is whole.*log\.csv"):
            log.record({"step": 99, "epoch": 1, "loss": 1.23456})
        with pytest.raises(OSError, match=r"what was written before is whole.*log\.json"):
            log.record_epoch({"step": 99, "epoch": 1, "seconds": 1.0}, {"text": "long " * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert before == ((tmp_path / "log.csv").read_bytes(), (tmp_path / "log.json").read_bytes())
    assert len(list(tmp_path.iterdir())) == 2


def test_numbers_that_json_lacks_become_null(tmp_path):
    model, ids, _ = known_run(learning_rate=math.nan)
    fit(model, ids, [RunLog(tmp_path)], epochs=2)
    rows, summary = read(tmp_path)
    assert rows[-1]["loss"] == "nan" and summary["epochs"][-1]["loss"] is None


def test_plot_shows_both_losses_and_leaves_pyplot_alone(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    backend, figures = matplotlib.get_backend(), plt.get_fignums()
    model, ids, _ = known_run()
    path = tmp_path / "new" / "run.png"
    fit(model, ids, [RunPlot(path, tokens_per_step=BATCH * LENGTH, every=2)], epochs=2)
    assert (matplotlib.get_backend(), plt.get_fignums()) == (backend, figures)
    assert list(path.parent.iterdir()) == [path]
    pixels = (plt.imread(path)[..., :3] * 255).round().astype(int)
    for color in [(0x2F, 0x6D, 0xB3), (0xD1, 0x66, 0x2B)]:  # training, validation
        assert (abs(pixels - color).max(-1) <= 1).sum() > 100


def test_plot_prefers_a_changing_learning_rate_to_the_speed():
    row = {"step": 1, "loss": 2.0, "learning_rate": 1e-3, "tokens_per_second": 5000.0}
    constant = [row, {**row, "step": 2, "loss": math.nan, "val_loss": 1.5}]
    assert draw_run(constant).axes[1].get_ylabel() == "tokens/s"
    assert draw_run([row, {**row, "step": 2, "learning_rate": 2e-3}]).axes[1].get_ylabel() == "learning rate"


def test_plot_shows_rewards_in_place_of_a_loss_that_says_nothing():
    row = {"step": 1, "loss": 1e-4, "perplexity": None, "learning_rate": 1e-3, "tokens_per_second": 5000.0}
    axes = draw_run([row, {**row, "reward": 0.0, "val_reward": 0.25}, {**row, "step": 2, "reward": 0.5}]).axes[0]
    assert axes.get_ylabel() == "reward"
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0, 0.5], [0, 0.5], [0.25]]


def test_files_that_exist_are_left_alone(tmp_path):
    model, ids, _ = known_run()
    for name, callback in [("log.csv", RunLog(tmp_path)), ("curve.png", RunPlot(tmp_path / "curve.png"))]:
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} exists and is not overwritten"):
            fit(model, ids, [callback])
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="tokens_per_step=0"):
        Throughput(0)
    with pytest.raises(ValueError, match="every=0"):
        RunLog("run", every=0)
    with pytest.raises(ValueError, match=r"ends in \.png"):
        RunPlot("curve.pdf")
