"""How fast a model trains, in tokens per second and as a share of what the machine's matmul can do."""

import time

import keras
from keras import ops

from kerasllm.callbacks.step_clock import StepClock


class Throughput(keras.callbacks.Callback):
    """Adds the training speed to the logs, so that Keras' progress bar and the callbacks after this one show it.

    `tokens_per_second` is the average of the epoch. The first execution of `fit`, which compiles, and everything
    between two epochs, such as validation, are left out. With `flops_per_token` the logs also hold
    `matmul_peak_share`: the model's arithmetic per second over the speed of a large bare matmul, as in the "model
    FLOPs utilization" of the PaLM paper (https://arxiv.org/abs/2204.02311, appendix B) with a measured peak in place
    of a data sheet's.

    Args:
        tokens_per_step: Tokens in a training batch: batch size times sequence length.
        flops_per_token: Floating point operations that training takes per token, forward and backward:
            `config.flops_per_token(context)`. None: no share of the peak.
        peak_flops: The machine's peak in FLOP/s. None: measured once, by `measure_matmul_peak`; on a mesh of devices,
            times their number.

    Raises:
        ValueError: A number is not above zero.

    Example:

    >>> speed = kerasllm.callbacks.Throughput(16 * 256, model.config.flops_per_token(256))
    >>> model.fit(dataset, callbacks=[speed])
    """

    async_safe = True  # Keras may then call from threads and does not wait for each step's result

    def __init__(self, tokens_per_step, flops_per_token=None, peak_flops=None):
        super().__init__()
        given = {"tokens_per_step": tokens_per_step, "flops_per_token": flops_per_token, "peak_flops": peak_flops}
        for name, value in given.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} is not possible; give a number above 0.")
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self._clock = StepClock()
        self._epoch_start = self._clock.reading

    def on_train_begin(self, logs=None):
        if self.flops_per_token and not self.peak_flops:
            distribution = keras.distribution.distribution()
            devices = distribution.device_mesh.devices.size if distribution else 1
            self.peak_flops = devices * measure_matmul_peak(self.model.compute_dtype)
        self._clock.begin_run(self.params.get("steps"))

    def on_epoch_begin(self, epoch, logs=None):
        self._clock.begin_epoch()
        self._epoch_start = self._clock.reading

    def on_train_batch_end(self, batch, logs=None):
        self._clock.advance(batch + 1)
        self._add_speed(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._add_speed(logs)

    def _add_speed(self, logs):
        steps_per_second = self._clock.reading.steps_per_second_since(self._epoch_start)
        if logs is None or steps_per_second is None:
            return
        logs["tokens_per_second"] = steps_per_second * self.tokens_per_step
        if self.flops_per_token:
            logs["matmul_peak_share"] = logs["tokens_per_second"] * self.flops_per_token / self.peak_flops


def measure_matmul_peak(dtype=None):
    """Measures how many floating point operations per second a large square matmul reaches here.

    Doubles the matrices until one product takes 20 ms, then takes the best of several; about a second on a CPU.

    Args:
        dtype: Of the matrices, such as "float32" or "bfloat16". None: what the global policy computes in.

    Returns:
        FLOP/s, a float.

    Example:

    >>> peak = kerasllm.callbacks.measure_matmul_peak("float32")
    """
    dtype = dtype or keras.config.dtype_policy().compute_dtype
    size, seconds = 256, 0.0
    while seconds < 0.02 and size < 16384:
        size *= 2
        matrix = ops.ones((size, size), dtype)
        _seconds_of_matmul(matrix)  # the first one compiles
        seconds = _seconds_of_matmul(matrix)
    repeats = max(3, min(20, int(0.5 / seconds)))
    return 2 * size**3 / min(seconds, *(_seconds_of_matmul(matrix) for _ in range(repeats)))


def _seconds_of_matmul(matrix):
    start = time.perf_counter()
    product = ops.matmul(matrix, matrix)
    float(ops.cast(product[0, 0], "float32"))  # fetching one number waits for all of them
    return time.perf_counter() - start
