"""Laws of scaling: constants that are known are found again, and the search for a law on runs whose law is known."""

import json
import math
import types

import numpy as np
import pytest
import yaml

from kerasllm import recipe
from kerasllm.cli import main
from kerasllm.models import TransformerConfig
from kerasllm.planning import (
    LearningRateRule,
    ScalingLaw,
    ScalingRun,
    ScalingStudy,
    fit_scaling_law,
    scaling_shapes,
)
from kerasllm.selection import scaling
from kerasllm.selection.small_runs import SmallRuns
from kerasllm.settings import TrainSettings

EPOCH = ScalingLaw(1.817, 482.0, 2085.4, 0.348, 0.366)  # https://arxiv.org/abs/2404.10102, table 1
SMALL = ScalingLaw(1.2, 60.0, 1200.0, 0.25, 0.47)
CONFIG = TransformerConfig(1000, 4, 256, 4, 1024, max_length=128, norm="rms", activation="relu_squared", use_bias=False)


def points(law, levels=(1e18, 1e19, 1e20), around=(0.25, 0.5, 1, 2, 4)):
    pairs = [(law.optimum(flops)[0] * factor, flops) for flops in levels for factor in around]
    N = np.array([size for size, _ in pairs])
    return N, np.array([flops for _, flops in pairs]) / 6 / N


def test_known_constants_are_found():
    N, D = points(EPOCH)
    fit = fit_scaling_law(N, D, EPOCH.loss(N, D), draws=2)
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(fit.law, name) == pytest.approx(getattr(EPOCH, name), rel=1e-3)
    assert fit.noise < 1e-6


def test_a_larger_run_lies_in_the_interval():
    N, D = points(EPOCH)
    larger = EPOCH.optimum(8e20)
    inside = 0
    for seed in range(4):
        noise = np.random.default_rng(seed).standard_normal(len(N))
        fit = fit_scaling_law(N, D, EPOCH.loss(N, D) * (1 + 0.004 * noise), draws=25)
        low, high = fit.interval(*larger)
        narrow, wide = fit.interval(*larger, of_a_run=False)
        assert fit.law.loss(*larger) == pytest.approx(EPOCH.loss(*larger), rel=0.02)
        assert high - low > wide - narrow and high - low < 0.2
        inside += low < EPOCH.loss(*larger) < high
    assert inside >= 3


def test_the_optimum_is_the_lowest_of_its_compute():
    N, D = EPOCH.optimum(1e21)
    assert pytest.approx(1e21) == N * D * 6
    around = N * np.geomspace(0.5, 2, 201)
    assert around[EPOCH.loss(around, 1e21 / 6 / around).argmin()] == pytest.approx(N, rel=1e-9)


def test_too_little_to_fit_is_refused():
    with pytest.raises(ValueError, match=r"at least 6 runs, of three sizes .* got 6 runs, of 1 sizes"):
        fit_scaling_law([1e6] * 6, np.arange(1, 7), [3.0] * 6)
    with pytest.raises(ValueError, match="above 0"):
        fit_scaling_law([1e6] * 6, [1e7] * 6, [math.nan] * 6)


def test_sizes_are_made_alike():
    shapes = scaling_shapes(TransformerConfig.preset("llama-3-8b", vocab_size=1000, max_length=64), 4)
    wide = next(shape.config for shape in shapes if shape.config.d_model == 4096)
    assert (wide.num_layers, wide.num_heads, wide.num_kv_heads, wide.dff) == (32, 32, 8, 14336)  # Llama 3's own
    assert [shape.parameters for shape in shapes] == sorted(shape.parameters for shape in shapes)
    assert shapes[0].steps_within(10.5 * shapes[0].flops_per_step) == 10
    with pytest.raises(ValueError, match="layers are alike"):
        scaling_shapes(TransformerConfig(100, 2, 64, 2, 64, attention_window=[8, None]), 4)


def rates(width, best, factors=(0.5, 1, 2)):
    for factor in factors:
        loss = 3 + 0.02 * math.log(factor * 4e-3 / best) ** 2
        yield ScalingRun(width, 10**5, 10**5, 1e12, loss, 1.0, factor * 4e-3)


def test_the_learning_rate_is_a_power_of_the_width():
    rule = LearningRateRule.fitted([*rates(64, 5e-3), *rates(256, 2.5e-3)])
    assert rule.power == pytest.approx(-0.5) and rule.at(1024) == pytest.approx(1.25e-3)
    assert LearningRateRule.fitted([*rates(64, 3e-3), *rates(256, 5e-3)]).power == 0  # wider is never quicker


class FakeRuns(SmallRuns):
    """Runs whose losses are those of a law, with some noise, and whose time is a clock's that is wound on."""

    now = 0.0
    text_tokens = 1_500_000

    def __init__(self, settings, folder):
        self.settings, self.folder, self.shapes = settings, folder, scaling_shapes(CONFIG, 8)
        self._random = np.random.default_rng(1)

    def train(self, shape, steps, learning_rate, level=0, purpose="size", most=math.inf):
        tokens = steps * shape.tokens_per_step
        off = 1 + 0.02 * math.log(learning_rate / (4e-3 * (64 / shape.config.d_model) ** 0.6)) ** 2
        loss = float(SMALL.loss(shape.parameters, tokens) * off * (1 + 0.003 * self._random.standard_normal()))
        seconds = steps * (0.005 + shape.flops_per_step / 1.5e11)
        FakeRuns.now += seconds + 4
        found = (tokens, steps * shape.flops_per_step, loss if loss < most else None, seconds, learning_rate, level)
        return ScalingRun(shape.config.d_model, shape.parameters, *found, purpose if loss < most else "stopped"), loss


def test_a_study_foresees_a_larger_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "SmallRuns", FakeRuns)
    monkeypatch.setattr(scaling, "time", types.SimpleNamespace(monotonic=lambda: FakeRuns.now))
    out = tmp_path / "study"
    code = main(["scale", "--data", "python_docs", "--budget-minutes", "8", "--batch-size", "8", "--out", str(out)])
    shown = capsys.readouterr().out
    assert code == 0 and "kerasllm train --config" in shown and FakeRuns.now < 1.05 * 8 * 60
    content = json.loads((out / "scaling.json").read_text())
    choice, sized = content["choice"], [run for run in content["runs"] if run["purpose"] == "size"]
    assert max(run["flops"] for run in sized) <= choice["flops"] / 7.9
    expected = SMALL.loss(choice["parameters"], choice["tokens"])
    low, high = choice["interval"]
    assert low < expected < high and choice["loss"] == pytest.approx(expected, rel=0.03)
    assert content["learning_rate"]["power"] == pytest.approx(-0.6, abs=0.3)
    for level in range(scaling.LEVELS):
        assert sum(run["level"] == level and run["purpose"] != "rate" for run in content["runs"]) >= 3
    best = TrainSettings(**yaml.safe_load((out / "best.yaml").read_text()))
    assert best.steps == choice["steps"] and best.model["d_model"] == choice["d_model"] and best.batch_size == 8
    assert (out / "scaling.png").stat().st_size > 10_000


def test_sizes_are_tried_until_the_best_lies_between():
    losses, allowed = {4: 3.0}, list(range(9))
    tried = []
    while (at := scaling._next_size(losses, allowed)) is not None:
        tried.append(at)
        losses[at] = 3.0 + 0.1 * abs(at - 7)
        losses[4] = 3.3
    assert tried == [2, 6, 8] and min(losses, key=losses.get) in (6, 8)


def test_a_budget_is_kept():
    shapes = scaling_shapes(CONFIG, 8)
    runs = []
    for number, shape in enumerate(shapes[:6]):
        for steps in (150, 300, 600):
            tokens = steps * shape.tokens_per_step
            loss, seconds = float(SMALL.loss(shape.parameters, tokens)), steps * (0.01 + shape.flops_per_step / 1e11)
            flops = steps * shape.flops_per_step
            runs.append(ScalingRun(shape.config.d_model, shape.parameters, tokens, flops, loss, seconds, 1e-3, number))
    study = ScalingStudy(runs, shapes, 10**6, LearningRateRule(64, 4e-3, -0.5))
    by_time, by_flops = study.choose(seconds=600), study.choose(flops=1e14)
    assert 590 < by_time.seconds <= 600 and by_flops.flops <= 1e14 and by_flops.tokens <= 4e6
    assert by_flops.learning_rate == study.rule.at(by_flops.shape.config.d_model)
    others = [shape for shape in shapes if 0 < shape.steps_within(1e14) * shape.tokens_per_step <= 4e6]
    losses = [SMALL.loss(shape.parameters, shape.steps_within(1e14) * shape.tokens_per_step) for shape in others]
    assert by_flops.loss == pytest.approx(min(losses), rel=1e-4)  # the runs lie on the law
    with pytest.raises(ValueError, match="enough for no model"):
        study.choose(flops=1e3)
    with pytest.raises(ValueError, match="give one"):
        study.choose()


@pytest.mark.soak
def test_a_small_run_is_what_train_makes_of_the_same_settings(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps. " * 400)
    settings = TrainSettings(
        data=str(text), out=str(tmp_path / "train"), tokenizer="byte", batch_size=4, max_length=32, precision="float32"
    )
    folder = tmp_path / "study"
    folder.mkdir()
    runs = SmallRuns(settings, folder)
    run, _ = runs.train(runs.shapes[0], 50, 4e-3)
    again = runs._settings_of(runs.shapes[0], 50, 4e-3)
    record = recipe.train(again)
    assert record["results"]["loss"] == pytest.approx(run.loss, abs=1e-4)
    assert record["model"]["parameters"] == run.parameters
    (path,) = (folder / "runs").glob("*/run.json")
    assert json.loads(path.read_text())["results"]["tokens"] == run.tokens
    stopped, _ = runs.train(runs.shapes[0], 50, 5e-3, most=0.01)
    assert stopped.loss is None and stopped.purpose == "stopped" and stopped.tokens == run.tokens / 2
