"""Twelve runs that are foreseen and then run: how right plans of this machine are.

    python tests/planned_runs.py foresee     by what `kerasllm plan --calibrate` has measured of this machine
    python tests/planned_runs.py see         runs them, on a machine that does nothing else

Both write tests/fixtures/planned_runs.json, the second into what the first wrote. None of the runs is one that the
calibration, or what plans count, was fitted to.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from kerasllm.losses import TokenCrossentropy
from kerasllm.models import TransformerConfig
from kerasllm.planning import Calibration, generation_plan, plan
from kerasllm.planning.probing import ANSWER

FILE = Path(__file__).with_name("fixtures") / "planned_runs.json"
BASE = {
    **{"num_layers": 5, "d_model": 384, "num_heads": 6, "dff": 1536, "vocab_size": 14000, "max_length": 240},
    **{"norm": "rms", "activation": "relu_squared", "use_bias": False},
}
WIDE = {"num_layers": 3, "d_model": 320, "num_heads": 5, "dff": 1280, "vocab_size": 50257, "max_length": 200}
LONG = {"num_layers": 2, "d_model": 384, "num_heads": 6, "dff": 1536, "max_length": 4096}
BFLOAT16 = {"precision": "mixed_bfloat16"}


def run(batch_size=14, precision="float32", loss_chunk=None, micro_batches=1, adapter_rank=None, rows=1, **fields):
    """A run; `rows` are those that are written at once when the model generates."""
    training = {"batch_size": batch_size, "precision": precision, "loss_chunk": loss_chunk}
    training |= {"micro_batches": micro_batches, "adapter_rank": adapter_rank}
    return {"config": {**BASE, **fields}, "training": training, "rows": rows}


RUNS = {
    "plain, float32": run(),
    "plain, bfloat16": run(**BFLOAT16, rows=4),
    "remat of blocks, bfloat16": run(**BFLOAT16, remat="block", rows=8),
    "remat of feed-forward, float32": run(remat="feed_forward", gated=True, dff=1200, activation="silu", rows=4),
    "micro-batches, float32": run(20, micro_batches=4, rows=8),
    "micro-batches, bfloat16, dropout": run(20, micro_batches=2, dropout=0.1, **BFLOAT16),
    "vocabulary of 50k, float32": run(6, **WIDE),
    "vocabulary of 50k in chunks, bfloat16": run(14, loss_chunk=512, **BFLOAT16, **WIDE, rows=4),
    "context of 4k, bfloat16": run(1, **BFLOAT16, **LONG),
    "context of 4k in chunks, remat of blocks, float32": run(1, loss_chunk=256, remat="block", **LONG, rows=4),
    "adapters, grouped keys, float32": run(14, adapter_rank=16, num_kv_heads=1, rows=8),
    "adapters, bfloat16, layer norm, biases, chunks": run(
        **{"adapter_rank": 8, "loss_chunk": 256, **BFLOAT16, "rows": 2},
        **{"norm": "layer", "use_bias": True, "activation": "gelu_tanh", "positions": "learned"},
    ),
}


def foreseen(run, device="this"):
    """What plans say of a run: a dict of "bytes", "seconds" of a step, "tokens_per_second" and "prompt_seconds"."""
    config, training = TransformerConfig(**run["config"]), dict(run["training"])
    loss = TokenCrossentropy(chunk_size=training.pop("loss_chunk"))
    trained = plan(config, training.pop("batch_size"), loss=loss, device=device, **training)
    prompt, dtype = config.max_length // 2, training["precision"].removeprefix("mixed_")
    half, full = (generation_plan(config, run["rows"], T, dtype=dtype, device=device) for T in (2 * prompt, prompt))
    return {
        "bytes": trained.memory_bytes["peak"],
        "seconds": trained.seconds_per_step,
        "tokens_per_second": half.tokens_per_second,
        "prompt_seconds": full.first_token_seconds,
    }


def seen(run):
    """The same, as it is when it is run."""
    config, rows = run["config"], run["rows"]
    prompt, dtype = config["max_length"] // 2, run["training"]["precision"].removeprefix("mixed_")
    trained = _run_alone("training_run", {"config": config, **run["training"]})
    writing = {"config": config, "batch_size": rows, "dtype": dtype, "prompt": prompt}
    written = _run_alone("generation_run", writing)
    of_writing = {"tokens_per_second": rows / written["step_seconds"], "prompt_seconds": written["prompt_seconds"]}
    return {**trained, **of_writing}


def _run_alone(function, arguments):
    command = [sys.executable, "-m", "kerasllm.planning.probing", json.dumps([[function, arguments]])]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return next(json.loads(line.removeprefix(ANSWER)) for line in lines if line.startswith(ANSWER))


def main(what):
    if what == "foresee":
        content = {"calibration": dataclasses.asdict(Calibration.kept()), "runs": []}
        content["runs"] = [{"name": name, **run, "foreseen": foreseen(run)} for name, run in RUNS.items()]
    else:
        content = json.loads(FILE.read_text())
        for run in content["runs"]:
            run["seen"] = seen(run)
            print(run["name"], {name: round(run["foreseen"][name] / found, 3) for name, found in run["seen"].items()})
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
