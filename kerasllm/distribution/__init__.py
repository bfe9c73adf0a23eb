"""One model on many devices: which of them has which part of it. On the JAX backend.

meshes.py    `mesh`: devices in rows for data, for shards of weights, and for parts of layers
layouts.py   `layout_map`: where each weight of any model of ours goes
processes.py `initialize`: several processes train one model
using.py     `use`: models that are made from here on, and what they train on, are on a mesh
compiling.py `compile_step`: a training step compiled for TPUs that are not there
"""

from kerasllm.distribution.compiling import CompiledStep, compile_step
from kerasllm.distribution.layouts import layout_map
from kerasllm.distribution.meshes import mesh
from kerasllm.distribution.processes import initialize
from kerasllm.distribution.using import MeshParallel, use

__all__ = ["CompiledStep", "MeshParallel", "compile_step", "initialize", "layout_map", "mesh", "use"]


def __dir__():  # what completion shows
    return __all__
