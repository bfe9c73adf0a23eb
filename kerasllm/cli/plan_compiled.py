"""`kerasllm plan --compile`: what TPUs' compiler says of a training step."""

import dataclasses
import json
import time


def compiled(arguments, config):
    """Compiles the step that the flags describe, and says what it takes."""
    from kerasllm import distribution, report
    from kerasllm.losses import TokenCrossentropy
    from kerasllm.models import CausalLM
    from kerasllm.optimizers import AdamW, Muon

    if arguments.rank or arguments.quantize:
        raise ValueError("--compile is for training all of a model: leave out --rank and --quantize.")
    precision = "mixed_bfloat16" if arguments.precision == "auto" else arguments.precision

    def make():
        model = CausalLM(config, dtype=precision)
        optimizer = (Muon if arguments.optimizer == "muon" else AdamW)(1e-3)
        model.compile(
            optimizer, TokenCrossentropy(chunk_size=arguments.loss_chunk), micro_batches=arguments.micro_batches
        )
        return model

    sizes = arguments.mesh or {"fsdp": -1}
    report.stage(f"Compiling a step for {arguments.topology}; the deeper the model, the longer: minutes")
    began = time.monotonic()
    step = distribution.compile_step(make, arguments.batch_size, config.max_length, arguments.topology, **sizes)
    report.stage(f"Compiled in {time.monotonic() - began:,.0f} s")
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(step), "peak_bytes": step.peak_bytes}, indent=2))
    else:
        report.table(f"each of {step.devices} chips", _rows(step, config, arguments.batch_size))


def _rows(step, config, batch_size):
    from kerasllm.planning.words import gigabytes

    yield "parameters of the model", f"{config.num_parameters():,}"
    yield "memory at its peak", gigabytes(step.peak_bytes)
    yield "weights, optimizer and batch", gigabytes(step.state_bytes)
    yield "activations, gradients, what is gathered", gigabytes(step.temporary_bytes)
    yield "program", gigabytes(step.code_bytes)
    yield "operations in a step, those in loops once", f"{step.flops / 1e12:,.2f} TFLOP"
    yield "read and written in a step", gigabytes(step.accessed_bytes)
    if step.seconds is not None:
        tokens = batch_size * config.max_length
        yield (
            "the compiler's estimate, without waiting",
            f"{step.seconds:,.3f} s, {tokens / step.seconds:,.0f} tokens/s",
        )
    yield (
        "what chips tell each other",
        ", ".join(f"{count} {name}" for name, count in step.collectives.items()) or "nothing",
    )
