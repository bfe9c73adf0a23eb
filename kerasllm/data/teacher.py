"""What a teacher says of each token of a data set: its likeliest tokens, computed once and kept."""

import hashlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from kerasllm import backend
from kerasllm.data.reference import fingerprint_of
from kerasllm.files import new_folder, read_json, write_json

_ABOUT, _IDS, _LOG_PROBS = "teacher.json", "ids.npy", "log_probs.npy"


def with_teacher(
    dataset: tf.data.Dataset, teacher: Any, top_k: int = 16, folder: str | os.PathLike | None = None
) -> tf.data.Dataset:
    """A data set whose labels come with the likeliest tokens of a teacher, for `losses.Distillation`.

    It takes 6 bytes for each of them on disk, in float16 and int32, where all the logits would take thousands of times
    as many.

    Args:
        dataset: of (inputs, labels (B, T), sample_weight), all batches of one shape and of known number, such as
            `causal_lm_dataset` and `chat_dataset` give.
        teacher: a `CausalLM` of the same vocabulary.
        top_k: int K.
        folder: path of a folder to make, where they are kept; or that was made so, and is read. By default a temporary
            one, which lives as long as the data set.

    Returns:
        A `tf.data.Dataset` of (inputs, {"labels": int32 (B, T), "teacher_ids": int32 (B, T, K), "teacher_log_probs":
        float32 (B, T, K)}, sample_weight).

    Raises:
        ValueError: where a folder is of another teacher, other data or another `top_k`.

    Example:

    >>> dataset = with_teacher(dataset, teacher, top_k=8)
    """
    temporary = None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="kerasllm-teacher-")
        folder = Path(temporary.name) / "teacher"
    folder = Path(folder)
    about = {"teacher": fingerprint_of(teacher), "top_k": top_k, "labels": _digest(dataset)}
    if not folder.exists():
        _write(dataset, teacher, top_k, folder, about)
    elif (found := read_json(folder / _ABOUT)) != about:
        name = next(name for name in about if found.get(name) != about[name])
        raise ValueError(f"{folder} is of another {name} than these: remove it, and it is made anew.")
    ids, log_probs = (np.load(folder / name, mmap_mode="r") for name in (_IDS, _LOG_PROBS))
    shape = ids.shape[1:]

    def read(step):
        return ids[step], log_probs[step].astype("float32")

    def element(step, batch):
        inputs, labels, *weight = batch
        found = tf.numpy_function(read, [step], [tf.int32, tf.float32], stateful=False)
        teacher_ids, teacher_log_probs = (tf.ensure_shape(rows, shape) for rows in found)
        of_teacher = {"teacher_ids": teacher_ids, "teacher_log_probs": teacher_log_probs}
        return inputs, {"labels": labels, **of_teacher}, *weight

    made = dataset.enumerate().map(element)
    if temporary is not None:
        weakref.finalize(made, temporary.cleanup)
    return made


def _write(dataset, teacher, top_k, folder, about):
    def likeliest(inputs):
        logits = ops.cast(teacher(inputs, training=False), "float32")
        values, ids = ops.top_k(logits, top_k)
        return ids, values - ops.logsumexp(logits, axis=-1, keepdims=True)

    compute = backend.compile_function(likeliest, teacher.variables, xla=False)
    with new_folder(folder) as draft:
        files = None
        for step, (inputs, *_) in enumerate(dataset.as_numpy_iterator()):
            found = [np.asarray(values) for values in compute(inputs)]
            if files is None:
                shape, open_file = (len(dataset), *found[0].shape), np.lib.format.open_memmap
                files = [
                    open_file(draft / name, "w+", dtype, shape)
                    for name, dtype in ((_IDS, "int32"), (_LOG_PROBS, "float16"))
                ]
            for file, values in zip(files, found, strict=True):
                file[step] = values
        for file in files:
            file.flush()
        write_json(draft / _ABOUT, about)


def _digest(dataset):
    digest = hashlib.sha256()
    for _, labels, *_ in dataset.as_numpy_iterator():
        digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
