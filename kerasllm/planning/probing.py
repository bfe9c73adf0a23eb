"""The inside of a measured process: products, steps of small models, texts that these write; each a line of JSON.

Lines that answer begin with ANSWER, as libraries print what they like.
"""

import json
import math
import os
import sys
import time

ANSWER = "ANSWER "
STEPS = 6


def main(jobs):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    functions = {"speeds": speeds, "training_run": training_run, "generation_run": generation_run}
    for name, arguments in json.loads(jobs):
        print(ANSWER + json.dumps(functions[name](**arguments)), flush=True)


def training_run(
    config, batch_size, precision="float32", loss_chunk=None, micro_batches=1, adapter_rank=None, steps=STEPS
):
    """Trains a model for a few steps.

    Returns:
        A dict of "bytes", the peak above what the process had before, which means something of the first run of a
        process, and "seconds", of the quickest step but the first.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasllm import adapters, losses, models, optimizers

    keras.ops.matmul(keras.ops.ones((64, 64)), keras.ops.ones((64, 64)))
    begin = _kilobytes("VmRSS")
    config = models.TransformerConfig.from_dict(config)
    model = models.CausalLM(config, dtype=precision)
    if adapter_rank:
        adapters.add(model, rank=adapter_rank)
    model.compile(optimizers.AdamW(), losses.TokenCrossentropy(chunk_size=loss_chunk), micro_batches=micro_batches)
    shape = steps * batch_size, config.max_length + 1
    ids = np.random.default_rng(0).integers(0, config.vocab_size, shape).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:], np.ones(ids[:, 1:].shape, "float32")))
    clock = _Clock()
    model.fit(data.batch(batch_size, drop_remainder=True), shuffle=False, verbose=0, callbacks=[clock.callback()])
    return {"bytes": 1024 * (_kilobytes("VmHWM") - begin), "seconds": min(clock.seconds[1:])}


def generation_run(config, batch_size, dtype, prompt, steps=48, seconds=3.0):
    """Generates with a model, behind prompts of so many tokens.

    Returns:
        A dict of "prompt_seconds", until each row has its first token, and "step_seconds", of each further one.
    """
    import numpy as np

    from kerasllm import models
    from kerasllm.generation.decoding import Decoding

    config = models.TransformerConfig.from_dict(config)
    model = models.CausalLM(config, dtype=dtype)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, prompt)).tolist()
    prompts, times, end = [{"token_ids": row} for row in ids], [], math.inf
    while len(times) < 4 or time.perf_counter() < end:
        decoding, start = Decoding(model, prompts, steps + 1), time.perf_counter()
        decoding.run(1)
        first = time.perf_counter()
        decoding.run(steps)
        times.append((first - start, (time.perf_counter() - first) / steps))
        end = min(end, time.perf_counter() + seconds)  # the first is compiled
    of_prompts, of_steps = zip(*times[1:], strict=True)
    return {"prompt_seconds": min(of_prompts), "step_seconds": min(of_steps)}


def speeds(dtypes, sizes, seconds=0.25):
    """FLOP/s of products by dtype and size, those of heads, and bytes per second of passes over memory.

    Args:
        dtypes: list of str.
        sizes: list of (rows, inputs, outputs) of kernels, of which the three products of training are timed.
        seconds: float, that each is timed for.
    """
    import tensorflow as tf

    def rate(function, amount, *tensors):
        function(*tensors)
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            function(*tensors)
            times.append(time.perf_counter() - start)
        return amount / sorted(times)[len(times) // 4]  # what others take of the machine is left out

    @tf.function
    def three(x, w, y):  # given, as what a graph knows it would compute once; returned, or none would be computed
        return tf.matmul(x, w), tf.matmul(y, w, transpose_b=True), tf.matmul(x, y, transpose_a=True)

    scores, more = tf.function(lambda x, y: tf.matmul(x, y, transpose_b=True)), tf.function(lambda x: x + 1.0)
    dense, heads = {}, {}
    for dtype in dtypes:
        dense[dtype] = []
        for M, D, U in sizes:
            tensors = (tf.ones(shape, dtype) for shape in ((M, D), (D, U), (M, U)))
            dense[dtype].append((2 * M * D * U, rate(three, 6 * M * D * U, *tensors)))
        heads_of_both = tf.ones((64, 128, 64), dtype), tf.ones((64, 256, 64), dtype)
        heads[dtype] = rate(scores, 2 * 64 * 128 * 256 * 64, *heads_of_both)
    return {"matmul": dense, "attention": heads, "bandwidth": rate(more, 2 * 4 * 2**25, tf.ones((2**25,)))}


class _Clock:
    def __init__(self):
        self.seconds = []

    def callback(self):
        import keras

        clock = self

        class Clock(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                self.start = time.perf_counter()

            def on_train_batch_end(self, batch, logs=None):
                clock.seconds.append(time.perf_counter() - self.start)

        return Clock()


def _kilobytes(field):
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main(sys.argv[1])
