"""Data sets whose elements are a function of the step alone: nothing is remembered, and a run resumes at any step."""

import weakref
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from kerasllm import backend


class Batches(NamedTuple):
    """Batches by their step, counted through all epochs.

    Attributes:
        steps_per_epoch: int.
        read: function (step, *indices) -> NumPy arrays. It is called in Python for each batch.
        types: the arrays' types of TensorFlow.
        element: function (*tensors) -> what `fit` takes, of those arrays.
        documents_at: function (step) -> sorted list of int, the numbers of the documents, or pairs, that a batch is
            made of, counted from 0 as they were given.
        indices_of: function (step) -> tensors, made in the graph, that `read` is also given.
    """

    steps_per_epoch: int
    read: Callable
    types: list
    element: Callable
    documents_at: Callable
    indices_of: Callable = lambda step: ()


def dataset_of(batches, epochs, start_step, ahead=2):
    """The `tf.data.Dataset` of known length that gives the batches of steps start_step, start_step + 1, …

    Args:
        batches: `Batches`.
        epochs: int, how often it goes through them.
        start_step: int, batches to leave out at the beginning.
        ahead: int, batches that are read before they are asked for.

    Returns:
        The data set, whose attribute `documents_at` is that of the batches.

    Raises:
        ValueError: where start_step is past the end.
    """
    steps = epochs * batches.steps_per_epoch
    if start_step >= steps:
        raise ValueError(
            f"start_step={start_step} is past the end: {epochs} epochs of {batches.steps_per_epoch} steps are steps 0 "
            f"to {steps - 1}. Raise epochs to train on."
        )
    _, read, types, element, documents_at, indices_of = batches
    weak_read = weakref.ref(read)  # TensorFlow keeps what it is given for ever; the data are to go with the data set

    def batch_at(step):
        arguments = [step, *indices_of(step)]
        return element(*tf.numpy_function(backend.told(lambda *a: weak_read()(*a)), arguments, types, stateful=False))

    dataset = tf.data.Dataset.range(start_step, steps).map(batch_at)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps - start_step))
    dataset = dataset.prefetch(ahead) if ahead else dataset
    # Autotuning has nothing to tune here, and its thread sleeps 10 ms, 20 ms, 40 ms …: the end of an epoch waits until
    # it wakes, which can take as long as the epoch itself (measured: 20.5 s for an epoch of 10.3 s).
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    dataset.read, dataset.documents_at = read, documents_at
    return dataset


def check_least(least, **values):
    """Refuses numbers below the least that is possible."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
