"""Plans: memory counted by hand and beside runs that were measured, what makes a run fit, and what train says of it."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import planned_runs
import pytest
from conftest import ROOT

from kerasllm import recipe
from kerasllm.cli import main
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import TransformerConfig
from kerasllm.models.memory import TrainingMemory
from kerasllm.planning import Calibration, Device, calibration, device_of, device_table, devices, plan, remedies
from kerasllm.planning.counting import passes_of_step, products_of_step
from kerasllm.planning.generation_times import GenerationTimes, GenerationWork
from kerasllm.planning.words import bytes_of, count_of, duration
from kerasllm.settings import TrainSettings

BARE = Calibration(
    fixed_bytes=0, layer_bytes=0, slack=0, logit_slack=0, long_bytes=0
)  # of a machine that takes nothing besides
PLAIN = {"norm": "rms", "activation": "relu_squared", "use_bias": False}
CONFIG = TransformerConfig(1000, 4, 64, 2, 256, max_length=128, **PLAIN)
KNOWN = Calibration(
    machine={},
    measured="2026-11-01",
    bandwidth=1e10,
    matmul={"float32": [(1e6, 1e11), (1e8, 3e11)]},
    attention={"float32": 1e11},
    pass_seconds={"float32": {"bytes": 1e-10, "scores": 1e-9, "gelu": 3e-9, "logits": 1e-9}},
    step_seconds=0.01,
    layer_seconds=0.001,
)
SIZES = {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_length": 16, "tokenizer": "char", "precision": "float32"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASLLM_CACHE", str(tmp_path / "cache"))


def bare(config, batch_size, **options):
    device = Device("bare", memory_bytes=None, calibration=BARE)
    return plan(config, batch_size, device=device, **options).memory_bytes


def test_memory_by_hand():
    """One block of width 8, 2 heads of 4, dff 16; 3 rows of 10 tokens; logits of 50 ids."""
    config = TransformerConfig(50, 1, 8, 2, 16, max_length=10, **PLAIN)
    N, tokens = 50 * 8 + 4 * 64 + 2 * 8 * 16 + 3 * 8, 30
    # The residual stream and its norm around both sublayers; projections, the turned keys, queries, what is read and
    # that side by side; scores of 2 heads with 10 keys; before and behind the activation.
    block = 4 * 8 + (3 + 1 + 3) * 8 + 2 * 10 + 2 * 16
    expected = {"weights": 4 * N, "gradients": 0, "optimizer": 8 * N, "activations": 4 * tokens * (8 + block + 8)}
    expected |= {"logits": 2 * 4 * tokens * 50, "workspace": 0}
    assert bare(config, 3) == {**expected, "peak": sum(expected.values())} and config.num_parameters() == N
    assert config.memory_bytes(3) == sum(expected.values())
    halved = bare(config, 3, precision="mixed_bfloat16")
    assert halved["activations"] == expected["activations"] / 2 and halved["workspace"] == 2 * N  # copies of weights


def test_options_change_what_is_kept():
    whole = bare(CONFIG, 16)
    assert bare(CONFIG, 16, micro_batches=4)["activations"] == whole["activations"] / 4
    chunked = bare(CONFIG, 16, loss=TokenCrossentropy(chunk_size=128))
    assert chunked["logits"] == 0 and chunked["peak"] < whole["peak"]  # then a block's gradient is the peak
    again = bare(dataclasses.replace(CONFIG, remat="block"), 16, loss=TokenCrossentropy(chunk_size=128))
    assert again["activations"] == 4 * 16 * 128 * 64 * (1 + 4)  # what stands before each block, and behind the last
    adapted = bare(CONFIG, 16, adapter_rank=4)
    ranks = 4 * 4 * (3 * 64 + 3 * 64 + 2 * 64 + 2 * (64 + 256))
    assert adapted["optimizer"] == 8 * ranks and adapted["peak"] < whole["peak"]
    assert bare(CONFIG, 16, adapter_rank=4, quantize="nf4")["weights"] < adapted["weights"] / 2
    evaluated = bare(CONFIG, 16, micro_batches=16, evaluates=True)
    assert evaluated["logits"] == whole["logits"]  # as validation takes no micro-batches


def test_runs_that_were_measured():
    """Each was foreseen before it was run, by a calibration of the machine that it ran on."""
    content = json.loads(planned_runs.FILE.read_text())
    device = Device(calibration=Calibration(**content["calibration"]))
    found = [planned_runs.foreseen(run, device) for run in content["runs"]]
    for name in ("bytes", "seconds"):
        errors = [abs(of_run[name] / run["seen"][name] - 1) for of_run, run in zip(found, content["runs"], strict=True)]
        assert np.median(errors) < 0.1 and max(errors) < 0.2


def test_time_is_the_sum_of_what_was_measured():
    foreseen = plan(CONFIG, 16, device=Device(calibration=KNOWN))
    products = sum(
        product.times
        * product.flops
        / (1e11 if product.kind == "attention" else KNOWN.matmul_rate(product.flops, "float32"))
        for product in products_of_step(foreseen.training)
    )
    rest = (
        0.01
        + 4 * 0.001
        + sum(KNOWN.pass_seconds["float32"][name] * n for name, n in passes_of_step(foreseen.training).items())
        + 40 * CONFIG.num_parameters() / 1e10
    )
    assert foreseen.seconds_per_step == pytest.approx(products + rest)
    assert KNOWN.matmul_rate(1e7, "float32") == pytest.approx(2e11) and KNOWN.matmul_rate(1, "float32") == 1e11
    # 6 for each weight that multiplies and token, as everybody counts; 6 for each score and channel of attention.
    blocks = 4 * (4 * 64 * 64 + 2 * 64 * 256) + 64 * 1000
    assert foreseen.flops_per_step == 2048 * (6 * blocks + 4 * 6 * 2 * 64 * 128)
    assert plan(CONFIG, 16, precision="mixed_bfloat16", device=Device(calibration=KNOWN)).seconds_per_step is None


def test_passes_by_hand():
    """Of a context of 1024 in tiles; what a block computes again passes a third more often."""
    config = TransformerConfig(1000, 4, 64, 2, 256, max_length=1024, **{**PLAIN, "activation": "gelu_tanh"})
    plain, again = (
        passes_of_step(TrainingMemory(dataclasses.replace(config, remat=remat), 2)) for remat in (None, "block")
    )
    scores = 2 * ((1024 + 1) / 2 + 128)
    assert plain == {
        "bytes": TrainingMemory(config, 2).kept_bytes - 2 * 2048 * 64 * 4,  # less the embedding and the last norm
        "scores": pytest.approx(2048 * 4 * scores),
        "gelu": 2048 * 4 * 256,
        "logits": 2048 * 1000,
    }
    assert again["gelu"] == pytest.approx(plain["gelu"] * 4 / 3)
    assert again["scores"] == pytest.approx(plain["scores"] * 4 / 3)
    block = plain["bytes"] + (plain["bytes"] - 2048 * 4 * 4 * 64) / 3
    assert again["bytes"] == pytest.approx(block) and again["logits"] == plain["logits"]


def test_times_of_writing_are_found_again():
    """Fitted to runs that known times made, they say as much of another model, between those in size and rows."""
    rates = [(1e6, 1e10), (1e10, 1e11)]
    known = GenerationTimes(
        [(1, [(1e5, 1e-10), (1e8, 2e-10)]), (8, [(1e5, 3e-10), (1e8, 5e-10)])], rates, [(1e6, 5e-11)], [(1e6, 3e-9)]
    )
    small, large, long = (
        dataclasses.replace(CONFIG, d_model=width, dff=4 * width, max_length=T)
        for width, T in ((64, 128), (512, 128), (256, 2048))
    )

    def run(config, rows, tokens):
        work = GenerationWork.of(config, rows, tokens, "float32")
        return work, known.prompt_seconds(work), known.step_seconds(work)

    short = [run(config, rows, 32) for config in (small, large) for rows in (1, 8)]
    fitted = GenerationTimes.fitted(short, [run(long, rows, 1900) for rows in (1, 8)])
    work, of_prompt, of_step = run(dataclasses.replace(small, d_model=256), 4, 100)
    assert fitted.step_seconds(work) == pytest.approx(of_step, rel=0.02)
    assert fitted.prompt_seconds(work) == pytest.approx(of_prompt, rel=0.1)
    of_kernels = 2 * 4 * 128 * (4 * 256 * 256 + 2 * 256 * 256)  # 100 tokens stand in a bucket of 128
    assert work.layer_flops[0] == pytest.approx(of_kernels, rel=0.01)


def test_a_data_sheet_says_time_and_money(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("h100: {usd_per_hour: 2.0}\nmine: {memory_gb: 1, tflops: {float32: 2}}\n")
    device = devices(path)["h100"]
    foreseen = plan(CONFIG, 16, precision="mixed_bfloat16", tokens=10**9, device=device)
    seconds = foreseen.flops_per_step / (0.4 * 989e12)
    assert foreseen.seconds_per_step == pytest.approx(max(seconds, foreseen.seconds_per_step))
    assert foreseen.usd == pytest.approx(foreseen.seconds / 3600 * 2) and foreseen.energy_kwh > 0
    assert devices(path)["mine"].memory_bytes == 1e9
    with pytest.raises(ValueError, match="no device 'h101'"):
        device_of("h101")
    path.write_text("h100: {price: 2.0}\n")
    with pytest.raises(ValueError, match="a device has no 'price'"):
        devices(path)


def test_remedies_fit_and_are_the_cheapest():
    asked = plan(CONFIG, 16, device=Device(memory_bytes=60e6, calibration=BARE))
    assert asked.fits is False
    found = remedies(asked)
    assert 1 <= len(found) <= 3 and [remedy.cost for remedy in found] == sorted(remedy.cost for remedy in found)
    for remedy in found:
        changed = {**dict.fromkeys(("loss_chunk", "micro_batches", "remat"))}
        words = remedy.flags.replace("--", "").replace("-", "_").split()
        changed.update(zip(words[::2], words[1::2], strict=True))
        again = plan(
            dataclasses.replace(CONFIG, remat=changed["remat"]),
            16,
            loss=TokenCrossentropy(chunk_size=changed["loss_chunk"] and int(changed["loss_chunk"])),
            micro_batches=int(changed["micro_batches"] or 1),
            device=asked.device,
        )
        assert again.memory_bytes == remedy.plan.memory_bytes and again.fits
    assert remedies(asked, limit=1e6) == []


def test_what_was_measured_is_kept_for_this_machine(tmp_path):
    known = dataclasses.replace(KNOWN, machine=calibration.this_machine())
    path = known.save()
    assert Calibration.kept().measured == "2026-11-01" and Calibration.kept().matmul_rate(1, "float32") == 1e11
    content = json.loads(path.read_text())
    for damaged in ({**content, "machine": {"cores": 1}}, {**content, "version": 0}, {"version": 1}, [], 3):
        path.write_text(json.dumps(damaged))
        assert Calibration.kept() == Calibration()
    path.write_text("{")
    assert Calibration.kept() == Calibration()


def test_the_command(tmp_path, capsys):
    sizes = ["--num-layers", "2", "--d-model", "64", "--num-heads", "2", "--max-length", "64", "--vocab-size", "500"]
    assert main(["plan", *sizes, "--data", "3M", "--precision", "float32", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["tokens"] == 3_000_000 and content["steps"] == -(-3_000_000 // 2048) and content["fits"]
    config = TransformerConfig(500, 2, 64, 2, 256, max_length=64, **PLAIN)
    assert content["memory_bytes"] == plan(config, 32).memory_bytes
    picture = tmp_path / "memory.png"
    little = ["--batch-size", "512", "--memory", "500MB", "--precision", "float32"]
    assert main(["plan", *sizes, *little, "--out", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "it does not fit" in shown and "--micro-batches 2" in shown and picture.stat().st_size > 5000
    for wrong, says in (
        (["--preset", "gtp2"], "Unknown preset"),
        (["--data", "nowhere"], "there is no nowhere"),
        (["--memory", "much"], "8GB or 500MB"),
        (["--quantize", "nf4"], "beside an `adapter_rank`"),
        (["--preset", "t5"], "without an encoder"),
    ):
        assert main(["plan", *wrong]) == 2
        assert says in capsys.readouterr().err


def test_train_begins_with_a_plan_or_not_at_all(tmp_path, capsys, monkeypatch):
    """Also the time of a step, where it is known."""
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("abcd " * 400)
    sizes = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    train = ["train", "--data", str(text), *sizes, "--steps", "1", "--batch-size", "64", "--out", str(out)]
    monkeypatch.setattr(device_table, "available_bytes", lambda: 100e6)
    assert main(train) == 2
    error = capsys.readouterr().err
    assert "MB of memory, and 100 MB are free. No change" in error and "--force begins all the same." in error
    assert not out.exists()

    class Begun(Exception):
        pass

    def model(*args):
        raise Begun

    monkeypatch.setattr(recipe, "_model", model)
    monkeypatch.setattr(Calibration, "kept", classmethod(lambda cls: KNOWN))
    settings = TrainSettings(data=str(text), out=str(out), steps=1, batch_size=64, **SIZES)
    with pytest.warns(UserWarning, match="Memory may not do"), pytest.raises(Begun):
        recipe.train(settings, force=True)
    shown = capsys.readouterr().out
    assert "Memory at its peak: about" in shown and "s a step" in shown and "2026-11-01" in shown


def test_words():
    assert [count_of(text) for text in ("300M", "1.5e9", "10b", "2_000", "x", "0", "-1")] == [
        *(300_000_000, 1_500_000_000, 10_000_000_000, 2000, None, None, None)
    ]
    assert [bytes_of(text) for text in ("8GB", "500 MB", "1.5GiB")] == [8e9, 5e8, 1.5e9]
    assert [duration(seconds) for seconds in (0.5, 100, 7200, 864000)] == ["0.5 s", "1.7 min", "2.0 h", "10.0 days"]


@pytest.mark.soak
def test_a_run_that_cannot_fit_is_refused_and_what_is_named_runs(tmp_path):
    """With 4 GB of addresses: an allocation beyond those would end it in the middle."""
    resource = pytest.importorskip("resource")
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 1000)
    command = [sys.executable, "-m", "kerasllm", "train", "--data", "text.txt", "--tokenizer", "byte", "--steps", "2"]
    command += ["--set", "model.vocab_size=20000", "--precision", "float32", "--out", "run"]
    command += ["--d-model", "128", "--num-layers", "2"]

    def trained(*flags):
        return subprocess.run(
            [*command, *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)),
        )

    refused = trained()
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
    flags = re.search(r"the cheapest first: (--[^(]*) \(", refused.stderr)
    assert flags, refused.stderr
    assert trained(*flags[1].split()).returncode == 0 and (tmp_path / "run" / "model.safetensors").is_file()
