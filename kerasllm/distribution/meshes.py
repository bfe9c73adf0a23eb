"""Devices in a mesh, whose axes say what each of them has of a model and of a batch."""

import math

import keras

from kerasllm import backend

AXES = ("data", "fsdp", "expert", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")  # along which the rows of a batch are shared out


def mesh(data=1, fsdp=1, tensor=1, expert=1, devices=None):
    """Devices in four directions, in each of which the work is shared out in another way.

    Args:
        data: int, groups of devices of which each has the whole model and a share of the batch.
        fsdp: int, devices that share out both the batch and the weights, gradients and states of the optimizer, and
            gather a layer's weights when it is computed (ZeRO's third stage).
        tensor: int, devices that share out the heads of attention, the width of feed-forward layers and the
            vocabulary; best those that are linked fastest.
        expert: int, devices that share out both the batch and the experts of mixtures: each computes with its own for
            the tokens of all of these. One of the four may be -1: what is left.
        devices: list of str such as "gpu:0", as `keras.distribution.list_devices()` gives; that is the default: those
            of all processes.

    Returns:
        `keras.distribution.DeviceMesh` with the axes "data", "fsdp", "expert" and "tensor".

    Raises:
        ValueError: if there are not as many devices, or the backend is not JAX.

    Example:
        >>> mesh = kerasllm.distribution.mesh(fsdp=-1)  # all devices

    Reference: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054; Shoeybi et al. 2019,
        https://arxiv.org/abs/1909.08053
    """
    if not backend.IS_JAX:
        raise ValueError(
            "Meshes of devices are JAX's: set KERAS_BACKEND=jax before Keras is imported. On TensorFlow, "
            "tf.distribute.MirroredStrategy trains on the devices of one host."
        )
    devices = keras.distribution.list_devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "expert": expert, "tensor": tensor}
    sizes = _completed(sizes, len(devices))
    return keras.distribution.DeviceMesh(tuple(sizes.values()), list(AXES), devices)


def _completed(sizes, count):
    """Sizes of the axes, with the number of devices that is left in the place of -1."""
    for name, size in sizes.items():
        if type(size) is not int or (size < 1 and size != -1):
            raise ValueError(f"`{name}` is a number of devices, or -1 for those that are left, got {size!r}.")
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(f"One axis may be -1, got {' and '.join(open_axes)}.")
    given = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and count % given == 0:
        sizes = {**sizes, open_axes[0]: count // given}
    if math.prod(sizes.values()) != count:
        asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"A mesh of {asked} does not have as many devices as there are: {count}.")
    return sizes


def size_of(mesh, *axes):
    """How many devices share out what is laid along these axes."""
    return math.prod(mesh.shape[mesh.axis_names.index(axis)] for axis in axes if axis in mesh.axis_names)
