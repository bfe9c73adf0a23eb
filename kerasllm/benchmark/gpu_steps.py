"""The processes of `gpu.py`: one program, measured on the device that its framework finds.

`python -m kerasllm.benchmark.gpu_steps PROGRAM SETTINGS` trains for some steps and prints what they took, as JSON.

Shapes: B batch, T time, D d_model.
"""

import json
import os
import statistics
import sys
import time

from kerasllm.benchmark.corpus import peak_mb
from kerasllm.callbacks import measure_matmul_peak

ROUNDS = 4  # of as many steps each, of which the first one is not counted: there XLA and torch compile


def by_kerasllm(sizes, context, batch_size, steps):
    """Seconds of each round of `fit` by kerasllm, and its config."""
    import keras
    import numpy as np

    from kerasllm.losses import TokenCrossentropy
    from kerasllm.models import CausalLM
    from kerasllm.optimizers import AdamW

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):  # whose logs have waited for the device
            seconds.append(time.perf_counter() - self.begin)

    seconds, config = [], config_of(sizes, context)
    model = CausalLM(config, dtype="mixed_bfloat16")
    model.compile(AdamW(3e-4), TokenCrossentropy(chunk_size=8192))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size * steps, context + 1), "int32")
    options = {"batch_size": batch_size, "epochs": ROUNDS, "shuffle": False, "verbose": 0}
    model.fit(ids[:, :-1], ids[:, 1:], callbacks=[Clock()], **options)
    return seconds, config


def by_plain_torch(sizes, context, batch_size, steps):
    """The same of a GPT in plain torch: fused attention, compiled where there is a GPU, autocast, fused AdamW."""
    import torch

    from kerasllm.benchmark.plain_torch import GPT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, seconds = config_of(sizes, context), []
    model = GPT(config).to(device)
    step_loss = torch.compile(model) if device == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(steps):
            ids = torch.randint(config.vocab_size, (batch_size, context + 1), device=device)
            with torch.autocast(device, torch.bfloat16):
                loss = step_loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return seconds, config


def config_of(sizes, context):
    from kerasllm.models import TransformerConfig

    sizes = dict(sizes)
    return TransformerConfig.preset(sizes.pop("preset"), max_length=context, **sizes)


def most_mb():
    """The most memory of the GPU that the program has held, or of this process where there is none, in MB."""
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        of_device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import torch

        of_device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return peak_mb() if of_device is None else of_device / 1e6


def main(function, settings):
    settings = json.loads(settings)
    seconds, config = {"kerasllm": by_kerasllm, "plain_torch": by_plain_torch}[function](**settings)
    peak = most_mb()
    tokens = settings["batch_size"] * settings["context"] * settings["steps"]
    rate = tokens / statistics.median(seconds[1:])
    mfu = rate * config.flops_per_token(settings["context"]) / measure_matmul_peak("bfloat16")
    print("ANSWER", json.dumps({"tokens_per_second": rate, "mfu": mfu, "peak_mb": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
