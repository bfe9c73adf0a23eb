"""What is compiled, and for which device."""

import contextlib
import contextvars
import functools
import math
import os
import sys

import keras
import numpy as np
import optree
from keras import ops

from kerasllm.backend.base import IS_JAX, IS_TENSORFLOW, as_tensor
from kerasllm.backend.devices import first_device
from kerasllm.backend.own_gradients import custom_gradient
from kerasllm.garbage import uncollected

if IS_TENSORFLOW:
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops
elif IS_JAX:
    import jax
    import jax.extend


# Flags that Linux gives CPUs with bfloat16 products, which oneDNN, TensorFlow's and torch's library, makes use of.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_plain_graph = contextvars.ContextVar("plain_graph", default=False)
_in_xla = contextvars.ContextVar("in_xla", default=False)


@contextlib.contextmanager
def plain_graph():
    """Within it, TensorFlow graphs are traced for a runtime without XLA, such as a stock model server."""
    token = _plain_graph.set(True)
    try:
        yield
    finally:
        _plain_graph.reset(token)


@contextlib.contextmanager
def within_xla():
    """Within it, TensorFlow graphs are traced for XLA."""
    tokens = _in_xla.set(True), _plain_graph.set(False)
    try:
        yield
    finally:
        _in_xla.reset(tokens[0])
        _plain_graph.reset(tokens[1])


def in_plain_graph():
    return _plain_graph.get()


def in_xla():
    """Whether XLA compiles what is traced: on JAX it always does, on TensorFlow within `compile_function`."""
    return IS_JAX or _in_xla.get()


def by_xla(function):
    """A function of (nested) tensors that XLA compiles within a TensorFlow graph which is else a plain one, such as
    that of a SavedModel: there for each of their shapes, when it is called."""

    def traced(*args):
        with within_xla():
            return function(*args)

    return tf.function(traced, jit_compile=True, autograph=False)


def fused(function, *tensors):
    """A function's result in one pass over memory, and its gradient in another, where TensorFlow makes one for each op.

    XLA compiles both, for shapes that are known when the graph is made; otherwise, and on JAX, which compiles
    everything, the function is just called.

    Args:
        function: a pure function of float tensors, element-wise but for sums over rows; not a new one in each call, as
            it is compiled once. It gets and returns float32, which costs nothing between a load and a store. The
            gradient keeps the arguments only, and computes the function again. Or a pair: such a function, that returns
            its result and what else is to be kept, and its gradient (upstream, kept, *tensors) -> list of tensors.
        *tensors: its arguments, variables too.

    Returns:
        The result, in the dtype of the first argument.
    """
    tensors = [as_tensor(tensor) for tensor in tensors]
    forward, *compiled = _fused(function)
    is_plain = not IS_TENSORFLOW or in_plain_graph() or not _has_xla()
    if is_plain or not all(tensor.shape.is_fully_defined() for tensor in tensors):
        return forward(*tensors)[0]

    @custom_gradient
    def call(*tensors):
        result, kept = compiled[0](*tensors)
        return result, lambda upstream: compiled[1](upstream, kept, *tensors)

    return call(*tensors)


def compiled(function, settings, *tensors):
    """A function's results, for which TensorFlow has XLA compile it. There is no gradient.

    Args:
        function: a function (settings, *tensors) -> tensor or tuple of tensors; not a new one in each call, as it is
            compiled once for equal settings.
        settings: hashable.
        *tensors: tensors.
    """
    if not IS_TENSORFLOW or in_xla() or in_plain_graph() or not _has_xla():
        return function(settings, *tensors)
    return _compiled(function, settings)(*tensors)


def by_rows(function, settings, *tensors):
    """As `compiled`, for all rows of tensors (rows, ...), which do not depend on each other: on TensorFlow each core of
    a CPU has a row at a time, so that what the row needs is in the core's cache."""
    if not IS_TENSORFLOW or in_xla() or in_plain_graph() or not _has_xla():
        return function(settings, *tensors)

    def of_row(tensors):
        return tuple(result[0] for result in compiled(function, settings, *(tensor[None] for tensor in tensors)))

    of_one = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in tensors]
    dtypes = tuple(spec.dtype for spec in _compiled(function, settings).get_concrete_function(*of_one).outputs)
    return tf.map_fn(of_row, tensors, fn_output_signature=dtypes, parallel_iterations=os.cpu_count())


@functools.cache
def _compiled(function, settings):
    def traced(*tensors):
        token = _in_xla.set(True)
        try:
            return function(settings, *tensors)
        finally:
            _in_xla.reset(token)

    return tf.function(traced, jit_compile=True, autograph=False)


def not_before(other, function, *tensors, **settings):
    """A function's result, made once another tensor is there too.

    So what several layers need is not made for all of them at once. XLA, where it is known to compile, neither makes it
    before a loop that it stands in, nor merges it with what comes before. There is no gradient.

    Args:
        other: tensor.
        function: a function of tensors and settings.
        *tensors: tensors.
        **settings: anything.
    """
    if not IS_TENSORFLOW:
        return function(*jax.lax.optimization_barrier((*tensors, other))[:-1], **settings)
    if in_xla():  # which heeds no control dependencies
        return function(*gen_xla_ops.xla_optimization_barrier([*tensors, other])[:-1], **settings)
    with tf.control_dependencies([other]):
        return function(*tensors, **settings)


@functools.cache
def _fused(function):
    """A function in float32 that returns its result and what is kept, it compiled, and its gradient compiled."""
    function, own_gradient = function if isinstance(function, tuple) else (function, None)

    def widened(tensors):
        return [ops.cast(tensor, "float32") for tensor in tensors]

    def forward(*tensors):
        result = function(*widened(tensors))
        result, kept = result if own_gradient else (result, ())
        return ops.cast(result, tensors[0].dtype), kept

    def gradient(upstream, kept, *tensors):
        if own_gradient:
            gradients = own_gradient(ops.cast(upstream, "float32"), kept, *widened(tensors))
            return [ops.cast(part, tensor.dtype) for part, tensor in zip(gradients, tensors, strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result, _ = forward(*tensors)
        return tape.gradient(result, tensors, output_gradients=upstream)

    compiled = (
        [tf.function(part, jit_compile=True, autograph=False) for part in (forward, gradient)] if IS_TENSORFLOW else ()
    )
    return forward, *compiled


@functools.cache
def _has_xla():
    """Whether XLA compiles for the device: for the GPUs of Macs it does not."""
    return not (sys.platform == "darwin" and tf.config.list_physical_devices("GPU"))


def compile_function(function, variables, xla=True, by_shape=False):
    """Compiles a function of tensors that reads a model's variables.

    Args:
        function: a function of (nested) tensors.
        variables: the Keras variables that it reads, and does not write.
        xla: bool, on TensorFlow, where False compiles in less time, once for tensors of all lengths. JAX always
            compiles by XLA.
        by_shape: bool. What XLA does not compile is traced for each length too.
    """
    if IS_TENSORFLOW:

        def traced(*args):
            with uncollected(), within_xla() if xla else plain_graph():
                return function(*args)

        if by_shape or xla:
            return _WithJoinedArrays(traced, xla)
        return _quiet(tf.function(traced, reduce_retracing=True, autograph=False))

    @jax.jit
    def stateless(values, *args):
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return function(*args)

    return lambda *args: stateless([variable.value for variable in variables], *args)


class _WithJoinedArrays:
    """A function of (nested) tensors and NumPy arrays, traced for each of their shapes, and perhaps compiled by XLA.
    Arrays of one dtype go there as one: TensorFlow takes as long for each, however small it is. It is called as it was
    traced: for TensorFlow to find out which trace that is takes as long again, where there are hundreds of variables.
    """

    def __init__(self, function, xla):
        self._function, self._xla, self._compiled = function, xla, {}

    def __call__(self, *args):
        return self.traced(*args)()

    def traced(self, *args):
        """A function without arguments that makes this call later, or in another thread: it traces nothing any more."""
        leaves, structure = optree.tree_flatten(args)
        arrays, tensors, kinds = {}, [], []
        for leaf in leaves:
            is_array, is_variable = isinstance(leaf, np.ndarray), isinstance(leaf, tf.Variable)
            (arrays.setdefault(leaf.dtype, []) if is_array else tensors).append(leaf)
            kinds.append((is_array, is_variable, leaf.dtype, tuple(leaf.shape)))
        joined = {dtype.name: np.concatenate([array.ravel() for array in some]) for dtype, some in arrays.items()}
        key = structure, *kinds
        if key not in self._compiled:
            unjoined = functools.partial(_call_unjoined, self._function, structure, tuple(kinds))
            compiled = _quiet(tf.function(unjoined, jit_compile=self._xla, autograph=False))
            self._compiled[key] = compiled.get_concrete_function(joined, tensors)
        return functools.partial(self._compiled[key], joined, tensors)


def _call_unjoined(function, structure, kinds, joined, tensors):
    begins, tensors = dict.fromkeys(joined, 0), iter(tensors)

    def leaf_of(is_array, _, dtype, shape):
        if not is_array:
            return next(tensors)
        begin = begins[dtype.name]
        begins[dtype.name] = end = begin + math.prod(shape)
        return ops.reshape(joined[dtype.name][begin:end], shape)

    return function(*optree.tree_unflatten(structure, [leaf_of(*kind) for kind in kinds]))


def _quiet(compiled):
    """A `tf.function` of which TensorFlow does not warn that it is traced often: it takes those of all models and
    lengths, which share their code, for one."""
    compiled._omit_frequent_tracing_warning = True
    return compiled


def on_cpu():
    """Whether there is no GPU or TPU."""
    if IS_TENSORFLOW:
        return not tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
    return first_device().platform == "cpu"


def fast_bfloat16_device():
    """The name of what multiplies faster in bfloat16 here, or None."""
    if not IS_TENSORFLOW:
        device = first_device()
        is_old = str(getattr(device, "compute_capability", "8.0")) in ("5.0", "5.2", "6.0", "6.1", "7.0", "7.5")
        return None if device.platform == "cpu" or is_old else device.device_kind  # XLA on CPUs gains nothing
    if tf.config.list_physical_devices("TPU"):
        return "a TPU"
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        is_new = details.get("compute_capability", (8, 0)) >= (8, 0)
        return details.get("device_name", "the GPU") if is_new else None
    return "this CPU" if cpu_has_bfloat16() else None


def has_fast_bfloat16():
    """Whether TensorFlow multiplies faster in bfloat16 on this CPU; XLA does not."""
    return IS_TENSORFLOW and not in_xla() and cpu_has_bfloat16()


def cpu_has_bfloat16():
    return bool(_BFLOAT16_FLAGS & _cpu_flags())


def _cpu_flags():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except FileNotFoundError:
        return set()
    return set(lines[0].split()) if lines else set()


def current_graph():
    """What is being traced: the same where tensors of one place can be used in the other; of TensorFlow, None in eager
    calls."""
    if IS_TENSORFLOW:
        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return jax.extend.core.get_opaque_trace_state(convention="nnx")


def call_on_host(function, tensor):
    """Calls a function with what a tensor will hold, a NumPy array, each time that a graph being made is run. (Not by
    XLA under TensorFlow.)"""
    if IS_TENSORFLOW:
        tf.py_function(lambda tensor: function(tensor.numpy()), [tensor], [])
    else:
        jax.debug.callback(lambda array: function(np.asarray(array)), tensor, ordered=True)


def wait_for_host():
    """Until all calls that `call_on_host` has asked for have ended."""
    if not IS_TENSORFLOW:
        jax.effects_barrier()
