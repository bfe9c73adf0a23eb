"""The few things `keras.ops` cannot say, one function per need, TensorFlow and JAX side by side."""

from kerasllm.backend.base import IS_TENSORFLOW
from kerasllm.backend.compiling import compile_function, fast_bfloat16_device, fused, plain_graph
from kerasllm.backend.gradients import (
    accumulate_gradients,
    apply_gradients,
    clip_by_global_norm,
    densify,
    fused_adam,
    has_fused_adam,
    remat,
    sum_over_replicas,
)
from kerasllm.backend.tensors import (
    add_at,
    assign_rows,
    dense,
    dropout,
    matmul,
    pad_rows,
    row_for_each,
    row_means,
    row_times_matrix,
    slice_update,
    stateless_uniform,
    wait_for,
    while_loop,
)

__all__ = [
    "IS_TENSORFLOW",
    "accumulate_gradients",
    "add_at",
    "apply_gradients",
    "assign_rows",
    "clip_by_global_norm",
    "compile_function",
    "dense",
    "densify",
    "dropout",
    "fast_bfloat16_device",
    "fused",
    "fused_adam",
    "has_fused_adam",
    "matmul",
    "pad_rows",
    "plain_graph",
    "remat",
    "row_for_each",
    "row_means",
    "row_times_matrix",
    "slice_update",
    "stateless_uniform",
    "sum_over_replicas",
    "wait_for",
    "while_loop",
]
