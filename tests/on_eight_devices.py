"""What `many_devices.py` runs in processes of its own, where JAX sees a CPU as several devices: eight in all.

python on_eight_devices.py NUMBER PROCESSES PORT FUNCTION ARGUMENT...
"""

import contextlib
import dataclasses
import json
import sys
import time

import keras
import numpy as np

import kerasllm
from kerasllm import distribution
from kerasllm.callbacks.checkpoint_folder import checkpoints
from kerasllm.losses import TokenCrossentropy
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig

STYLES = {
    "gpt2": CausalLM,
    "llama": CausalLM,
    "gemma-2": CausalLM,
    "mixtral": CausalLM,
    "bert": MaskedLM,
    "t5": Seq2SeqLM,
}
OPTIONS = {
    "llama": {"num_kv_heads": 2},
    "gemma-2": {"num_kv_heads": 2, "attention_window": 8},
    "mixtral": {"num_kv_heads": 2, "num_experts": 4, "router_loss": 0.01},
    "t5": {"num_encoder_layers": 1},
}
LENGTHS = {"llama": 1024}  # attention in tiles
MESHES = {"data=8": {"data": 8}, "fsdp=8": {"fsdp": 8}, "tensor=2, fsdp=4": {"tensor": 2, "fsdp": 4}}
OTHER_MESHES = {"mixtral": {**MESHES, "expert=4, fsdp=2": {"expert": 4, "fsdp": 2}}}
TEXT = ["The fox sees what the owl hears, and the owl hears what the fox sees. " * 20]


def make(style, d_model=32, max_length=64, dropout=0.1):
    keras.utils.set_random_seed(0)
    sizes = {"vocab_size": 96, "num_layers": 1, "d_model": d_model, "num_heads": 4, "dff": 2 * d_model}
    sizes |= {"max_length": max_length, "dropout": dropout, **OPTIONS.get(style, {})}
    return STYLES[style](TransformerConfig.preset(style, **sizes))


def on_mesh(sizes):
    return distribution.MeshParallel(distribution.mesh(**sizes)).scope() if sizes else contextlib.nullcontext()


def batches(style, count, length):
    """Texts of uneven lengths, so that devices have unequal numbers of tokens."""
    draw = np.random.default_rng(1)
    for _ in range(count):
        ids = draw.integers(1, 96, size=(16, length + 1))
        weight = (np.arange(length)[None] < draw.integers(3, length, size=(16, 1))).astype("float32")
        inputs = {"source_ids": ids[:, :12], "target_ids": ids[:, :-1]} if style == "t5" else ids[:, :-1]
        yield inputs, ids[:, 1:], weight


def trained(style, optimizer, steps, length=23, **options):
    """The losses of some steps, and what they have made of the weights."""
    model, losses = make(style, max_length=max(64, length)), []
    model.compile(optimizer, **options)
    for inputs, labels, weight in batches(style, steps, length):
        logs = model.fit(inputs, labels, sample_weight=weight, batch_size=16, shuffle=False, verbose=0)
        losses.append(logs.history["loss"][0])
    return losses, *model.get_weights()


RUNS = {
    "gradients": lambda style: trained(style, keras.optimizers.SGD(1.0), 1, LENGTHS.get(style, 23)),
    "updates": lambda style: trained(
        style,
        kerasllm.optimizers.AdamW(1e-3, epsilon=1e-4),
        20,
        loss=TokenCrossentropy(chunk_size=32),
        micro_batches=2,
    ),
}


def share_of_one_device(style):
    """The share of the bytes of weights and optimizer that one device has."""
    model = make(style, d_model=128)
    model.compile(kerasllm.optimizers.AdamW())
    model.optimizer.build(model.trainable_variables)
    values = [variable.value for variable in [*model.variables, *model.optimizer.variables]]
    return sum(v.addressable_shards[0].data.nbytes for v in values) / sum(v.nbytes for v in values)


def text(style):
    """What a model continues a prompt with; nothing where it does not."""
    return kerasllm.generation.generate_ids(make(style), [5, 6, 7], 12) if STYLES[style] is CausalLM else []


def learned(style):
    """Prints a line for each mesh: how far what is learned there is from what one device learns."""
    expected, expected_text = {name: run(style) for name, run in RUNS.items()}, text(style)
    for name, sizes in OTHER_MESHES.get(style, MESHES).items():
        with on_mesh(sizes):
            found = {name: run(style) for name, run in RUNS.items()}
            line = {"mesh": name, "share": share_of_one_device(style), "same text": text(style) == expected_text}
        for run, values in found.items():
            pairs = zip(values, expected[run], strict=True)
            line[run] = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
        print(json.dumps({"style": style, **line}), flush=True)


class PowerCut(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            raise RuntimeError("the power is off")


def resumed(folder, *meshes):
    """Prints the loss of an epoch of six steps; it is cut off after three, and goes on on the second of two meshes."""
    tokenizer = kerasllm.tokenizers.Tokenizer.train(TEXT, kind="char", progress=False)
    for place, sizes in enumerate(json.loads(sizes) for sizes in meshes):
        with on_mesh(sizes):
            model = make("llama")
            model.compile(kerasllm.optimizers.AdamW(1e-3, epsilon=1e-4))
            checkpoint = kerasllm.callbacks.Checkpoint(folder, every_steps=3)
            start = checkpoint.restore(model)
            options = {"seq_len": 16, "batch_size": 8, "progress": False, "start_step": start}
            dataset = kerasllm.data.causal_lm_dataset(TEXT, tokenizer, **options)
            last = place == len(meshes) - 1
            with contextlib.nullcontext() if last else contextlib.suppress(RuntimeError):
                callbacks = [checkpoint] if last else [checkpoint, PowerCut()]
                history = model.fit(dataset, steps_per_epoch=6, epochs=1, verbose=0, callbacks=callbacks)
        while not checkpoints(folder):  # which a thread writes
            time.sleep(0.1)
    print(json.dumps({"start": start, "loss": history.history["loss"][0]}))


def compiled(style, *sizes):
    """Prints what the compiler says of a step of long rows on a slice of four TPUs, for each of some meshes."""

    def made():
        model = make(style, d_model=512, max_length=1024, dropout=0.0)  # with which most are trained that are large
        model.compile(kerasllm.optimizers.AdamW(), TokenCrossentropy(chunk_size=1024))
        return model

    for of_mesh in map(json.loads, sizes):
        step = distribution.compile_step(made, 16, 1024, "v5e:2x2", **of_mesh)
        print(json.dumps({**dataclasses.asdict(step), "parameters": made().count_params()}), flush=True)


if __name__ == "__main__":
    number, count, port, function, *arguments = sys.argv[1:]
    if int(count) > 1:
        keras.distribution.initialize(f"127.0.0.1:{port}", int(count), int(number))
    {"compiled": compiled, "learned": learned, "resumed": resumed}[function](*arguments)
