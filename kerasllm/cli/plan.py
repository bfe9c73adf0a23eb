"""`kerasllm plan`: what training a model will take, and generating with it."""

import dataclasses
import json
from pathlib import Path

from kerasllm.cli.plan_compiled import compiled
from kerasllm.cli.startup import start_keras
from kerasllm.settings import TrainSettings, read_yaml
from kerasllm.settings.reading import read_fields
from kerasllm.tasks import TASKS

_FIELDS = ("num_layers", "d_model", "num_heads", "dff", "max_length", "vocab_size")
_BYTES_PER_TOKEN = 4  # of English, by a tokenizer of some tens of thousands of ids


def run(arguments):
    from kerasllm.planning.words import bytes_of

    memory = bytes_of(arguments.memory) if arguments.memory else None
    tokens = None if arguments.data is None else _tokens(arguments.data)
    out = Path(arguments.out) if arguments.out else None
    if out and (out.exists() or out.suffix not in (".png", ".svg")):
        raise ValueError(f"--out makes a .png or .svg that is not there yet, not {out}.")
    if arguments.compile != bool(arguments.topology) or (arguments.mesh and not arguments.compile):
        raise ValueError("--compile takes --topology, such as v5e:4x4, and perhaps --mesh; each is for the others.")
    start_keras()
    if arguments.compile:
        compiled(arguments, _config(arguments))
        return
    from kerasllm import planning, report
    from kerasllm.planning import rows

    if arguments.calibrate:
        planning.calibrate(say=report.stage)
        if not any(getattr(arguments, name) for name in ("preset", "config", "model", *_FIELDS)):
            report.stage("Plans now say how long training on this machine takes")
            return
    config = _config(arguments)
    device = planning.device_of(arguments.device, arguments.devices)
    if memory is not None:
        device = dataclasses.replace(device, memory_bytes=memory)
    plan = planning.plan(
        config,
        arguments.batch_size,
        loss=_Chunked(arguments.loss_chunk),
        micro_batches=arguments.micro_batches,
        precision=_precision(arguments, device),
        optimizer=arguments.optimizer,
        adapter_rank=arguments.rank,
        quantize=arguments.quantize,
        tokens=tokens,
        device=device,
    )
    dtype = "float32" if plan.training.precision == "float32" else plan.training.precision.removeprefix("mixed_")
    generating = planning.generation_plan(config, dtype=dtype, quantize=arguments.quantize, device=device)
    found = planning.remedies(plan) if plan.fits is False else []
    if out:
        plans = {"as asked": plan, **{remedy.flags: remedy.plan for remedy in found}}
        planning.memory_figure(plans).savefig(out, dpi=150)
    if arguments.json:
        print(json.dumps(_content(plan, generating, found), indent=2))
        return
    report.table("training", rows.training_rows(plan))
    report.table("memory at its peak", rows.memory_rows(plan))
    if arguments.budget_hours or arguments.budget_usd:
        report.table("budget", rows.budget_rows(plan, arguments.budget_hours, arguments.budget_usd))
    if plan.fits is False:
        report.table("what makes it fit, the cheapest first", rows.remedy_rows(found))
    report.table(f"generating, one row of {config.max_length:,} tokens", rows.generation_rows(generating))


@dataclasses.dataclass(frozen=True)
class _Chunked:
    """What a plan reads of a loss."""

    chunk_size: int | None


def _config(arguments):
    """The config that the flags and the file ask for, as `kerasllm train` would make it."""
    values = read_yaml(arguments.config) if arguments.config else {}
    fields = {name: value for name in _FIELDS if (value := getattr(arguments, name)) is not None}
    size = fields.pop("vocab_size", None)
    model = {**values.get("model", {}), **fields, **read_fields(arguments.model)}
    if arguments.remat:
        model["remat"] = arguments.remat
    preset = arguments.preset or values.get("preset")
    settings = TrainSettings(data="-", out="-", model=model, **({"preset": preset} if preset else {}))
    if size is not None or not preset:
        model = {**settings.model, "vocab_size": size or settings.vocab_size}
        settings = dataclasses.replace(settings, model=model)
    if not preset:
        return TASKS["causal"](settings).config()
    from kerasllm.models import TransformerConfig

    return TransformerConfig.preset(preset, **settings.model)


def _precision(arguments, device):
    """What "auto" is on a device: on another than this, bfloat16 where it has it."""
    if arguments.precision != "auto" or device.is_this:
        return arguments.precision
    return "mixed_bfloat16" if "bfloat16" in device.flops else "float32"


def _tokens(data):
    """How many tokens --data is: a count, a folder of token files, or text, of which four bytes are taken for one."""
    from kerasllm.planning.words import count_of

    if (count := count_of(data)) is not None:
        return count
    path = Path(data)
    manifest = path / "manifest.json"
    if manifest.is_file():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if isinstance(content, dict) and type(content.get("num_tokens")) is int:
            return content["num_tokens"]
    if not path.exists():
        raise FileNotFoundError(f"--data takes a count such as 300M, or a file or folder; there is no {data}.")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return max(sum(file.stat().st_size for file in files) // _BYTES_PER_TOKEN, 1)


def _content(plan, generating, found):
    names = ("parameters", "trained_parameters", "tokens_per_step", "flops_per_step", "memory_bytes", "fits")
    names += ("seconds_per_step", "tokens_per_second", "tokens", "steps", "seconds", "energy_kwh", "usd")
    names += ("disk_bytes", "checkpoint_bytes")
    of_generating = dataclasses.asdict(generating)
    del of_generating["device"]
    return {
        "device": plan.device.name,
        "available_bytes": plan.device.memory_bytes,
        **{name: getattr(plan, name) for name in names},
        "remedies": [
            {"flags": remedy.flags, "peak": remedy.plan.memory_bytes["peak"], "cost": remedy.cost} for remedy in found
        ],
        "generation": of_generating,
    }
