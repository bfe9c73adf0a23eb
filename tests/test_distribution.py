"""One model on many devices: beside one that is on a single device."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import keras
import pytest
from many_devices import free_port, on_eight_devices, variables_for

import kerasllm
from kerasllm.distribution import initialize, layout_map, mesh
from kerasllm.distribution.layouts import axes_of

DEVICES = [f"cpu:{number}" for number in range(8)]


@pytest.fixture
def two_by_four():
    return keras.distribution.DeviceMesh((1, 4, 2), ["data", "fsdp", "tensor"], DEVICES)


@pytest.mark.parametrize(
    "path, shape, axes",
    [
        ("lm/transformer/block_0/attention/query_key_value/kernel", (32, 64), ("fsdp", "tensor")),
        ("lm/transformer/block_0/attention/query_key_value/bias", (64,), ("tensor",)),
        ("lm/transformer/block_0/attention/output/kernel", (32, 32), ("tensor", "fsdp")),
        ("lm/transformer/block_0/attention/output/bias", (32,), (None,)),
        ("lm/transformer/block_0/feed_forward/inner/kernel", (32, 128), ("fsdp", "tensor")),
        ("lm/transformer/block_0/feed_forward/outer/kernel", (64, 32), ("tensor", "fsdp")),
        ("lm/token_embedding/embeddings", (97, 32), (None, "fsdp")),
        ("lm/token_embedding/reverse_embeddings", (32, 96), ("fsdp", "tensor")),
        ("lm/transformer/position_embedding/embeddings", (30, 32), (None, "fsdp")),
        ("lm/transformer/final_norm/scale", (32,), (None,)),
        ("lm/some_layer/table", (3, 5), (None, None)),
        ("seed_generator_state", (), ()),
    ],
)
def test_where_weights_go(two_by_four, path, shape, axes):
    assert axes_of(path, shape, two_by_four) == axes


def test_the_map_of_a_model_has_all_its_weights(two_by_four):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="inner"), keras.layers.Dense(4)])
    found = {path: layout.axes for path, layout in layout_map(model, two_by_four).items()}
    assert list(found) == [weight.path for weight in model.weights]
    assert list(found.values()) == [("fsdp", None), (None,), (None, "fsdp"), (None,)]


def test_on_tensorflow_a_mesh_says_where_to_go():
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=jax.*MirroredStrategy"):
        mesh(data=2)


def test_on_tensorflow_there_is_one_process():
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        initialize("127.0.0.1:1234", 2, 0)


@pytest.mark.scale
@pytest.mark.parametrize("style", ["gpt2", "llama", "gemma-2", "mixtral", "bert", "t5"])
def test_eight_devices_learn_what_one_learns(style):
    """Loss and gradients, and 20 updates in chunks and micro-batches, with dropout and uneven numbers of tokens."""
    for found in on_eight_devices("learned", style):
        assert max(found["gradients"], found["updates"]) < 1e-5, found
        assert found["same text"], found
        if found["mesh"] == "fsdp=8":
            assert found["share"] < 1.1 / 8, found


@pytest.mark.scale
def test_a_run_goes_on_with_other_devices_and_processes(tmp_path):
    fsdp, both, one = json.dumps({"fsdp": 8}), json.dumps({"tensor": 2, "fsdp": 4}), "null"
    (whole,) = on_eight_devices("resumed", tmp_path / "whole", fsdp)
    for number, (processes, meshes) in enumerate([(1, (fsdp, both)), (1, (both, one)), (2, (both, fsdp))]):
        lines = on_eight_devices("resumed", tmp_path / str(number), *meshes, processes=processes)
        assert len(lines) == processes
        for found in lines:
            assert found["start"] == 3
            assert found["loss"] == pytest.approx(whole["loss"], abs=1e-5)


@pytest.mark.scale
def test_processes_that_die_or_are_stopped_lose_nothing(tmp_path):
    """Runs of the command line over four devices: of four processes, of which one is killed or told to stop, then of
    two or one or four."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} foxes and {n * n % 89} owls see {n * 7 % 31} mice.\n" for n in range(2000)))
    kills = int(os.environ.get("KERASLLM_KILLS", "1"))
    sizes = {"num-layers": 1, "d-model": 32, "num-heads": 4, "dff": 64, "context": 32, "batch-size": 8}
    settings = {**sizes, "tokenizer": "char", "steps": 24 * (kills + 1), "save-every": 4, "data": text}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert ended(trained(4, [*flags, "--out", whole])) == [0] * 4
    draw, arguments = random.Random(0), [*flags, "--out", cut]
    for number in range(kills):
        processes, seen = trained(4, arguments), newest(cut)
        while newest(cut) <= seen + 4 and all(process.poll() is None for process in processes):
            time.sleep(0.05)
        time.sleep(draw.random())
        one, sent = draw.choice(processes), draw.choice([signal.SIGKILL, signal.SIGTERM])
        one.send_signal(sent)
        began = time.monotonic()
        codes = ended(processes)
        assert time.monotonic() - began < 60
        if sent == signal.SIGTERM:
            assert codes == [143] * 4, number
        else:  # the others end by themselves, or JAX aborts them when it misses the first
            assert codes.count(-signal.SIGKILL) == 1 and set(codes) <= {-signal.SIGKILL, -signal.SIGABRT, 2}, codes
        arguments = ["--resume", cut]
    assert ended(trained(2, arguments)) == [0, 0]
    assert log_of(cut) == log_of(whole)
    weights, others = (kerasllm.load(folder)[0].get_weights() for folder in (whole, cut))
    assert all((a == b).all() for a, b in zip(weights, others, strict=True))


def trained(count, arguments):
    """`kerasllm train` in so many processes, which have four devices together."""
    pytest.importorskip("jax")
    common = [sys.executable, "-m", "kerasllm", "train", *map(str, arguments), "--coordinator"]
    common += [f"127.0.0.1:{free_port()}", "--processes", str(count), "--process"]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": variables_for(4 // count)}
    return [subprocess.Popen([*common, str(number)], **nowhere) for number in range(count)]


def ended(processes):
    return [process.wait(timeout=600) for process in processes]


def newest(folder):
    """The last step that is saved."""
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)


def log_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return [(row["step"], row["loss"], row["val_loss"]) for row in csv.DictReader(file)]
