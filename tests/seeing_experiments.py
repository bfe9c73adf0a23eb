"""What experiments with models that see have in common: a training, and what it took."""

import time

import keras
import tensorflow as tf

import kerasllm


class Clock:
    """Minutes since it was made: of the wall, and of all processors, half of which a quiet machine of two needs."""

    def __init__(self):
        self._wall, self._processors = time.perf_counter(), time.process_time()

    def read(self):
        wall, processors = time.perf_counter() - self._wall, time.process_time() - self._processors
        return {"minutes": round(wall / 60, 1), "processor_minutes": round(processors / 60, 1)}


def endless(batches):
    """A data set of what a function without arguments yields for ever, in shapes that stay."""
    spec = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), next(batches()))
    return tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(4)


def fit(model, dataset, steps, peak=5e-3, weight_decay=0.01, verbose=2):
    """Trains a model by Muon, at a rate that rises for a twentieth of the steps and falls for the rest."""
    rates = keras.optimizers.schedules.CosineDecay(peak / 10, steps, warmup_target=peak, warmup_steps=steps // 20)
    model.compile(kerasllm.optimizers.Muon(rates, weight_decay=weight_decay))
    most = min(steps, 100)  # so that something is said from time to time
    model.fit(dataset, epochs=steps // most, steps_per_epoch=most, verbose=verbose)
