"""What torch does in its own way, of the functions that this room has for TensorFlow and JAX side by side.

torch runs a function as it is called, so there is nothing to trace: what the others compile is called here without a
gradient, a loop is Python's, and an attention is torch's fused kernel. What is not here serves torch as it is.
"""

import contextvars
import math
import operator

import keras
import numpy as np
import torch
from keras import ops
from keras.src.backend.common.variables import AutocastScope
from keras.src.backend.torch.core import get_device
from torch.nn import functional
from torch.optim.adam import adam

from kerasllm.backend.compiling import cpu_has_bfloat16
from kerasllm.backend.per_example import scale_of

_MIX = 0x9E3779B97F4A7C15  # odd and large: 2^64 over the golden ratio
# What is called as the others call what they have compiled; and whether it is in a loop, whose tensors are its own.
_compiled = contextvars.ContextVar("compiled", default=None)
_in_loop = contextvars.ContextVar("in_loop", default=False)


def on_cpu():
    return str(get_device()).partition(":")[0] in ("cpu", "meta")


def fast_bfloat16_device():
    if str(get_device()).startswith("cuda"):
        return torch.cuda.get_device_name() if torch.cuda.get_device_capability() >= (8, 0) else None
    return "this CPU" if on_cpu() and cpu_has_bfloat16() else None


def compile_function(function, variables, xla=True, by_shape=False):
    def call(*args):
        token = _compiled.set(object())
        try:
            with torch.no_grad():
                return function(*keras.tree.map_structure(_given, args))
        finally:
            _compiled.reset(token)

    return call


def _given(leaf):
    """An array as a tensor; a whole number as Python's, which no device has to be asked for."""
    if not isinstance(leaf, np.ndarray | np.generic):
        return leaf
    return int(leaf) if leaf.ndim == 0 and leaf.dtype.kind == "i" else ops.convert_to_tensor(leaf)


def current_graph():
    return _compiled.get()


def call_on_host(function, tensor):
    function(ops.convert_to_numpy(tensor))


def wait_for_host():
    pass


def fused(function, *tensors):
    """As the gradient is written out, no more is kept for it than that needs."""
    if not isinstance(function, tuple):
        return function(*map(ops.convert_to_tensor, tensors))
    forward, gradient = function

    def widened(tensors):
        return [tensor.float() for tensor in tensors]

    @custom_gradient
    def call(*tensors):
        result, kept = forward(*widened(tensors))

        def gradients(upstream):
            found = gradient(upstream.float(), kept, *widened(tensors))
            return [part.to(tensor.dtype) for part, tensor in zip(found, tensors, strict=True)]

        return result.to(tensors[0].dtype), gradients

    return call(*map(ops.convert_to_tensor, tensors))


def not_before(other, function, *tensors, **settings):
    return function(*tensors, **settings)


def flash_attention(query, key, value, causal, window, query_ids, key_ids, soft_cap):
    """A window and ids are a mask of bools; without them the kernel leaves out what is hidden."""
    T, S = query.shape[2], key.shape[2]
    if soft_cap is not None or (causal and T != S):
        return None
    visible = None if key_ids is None else query_ids[:, None, :, None] == key_ids[:, None, None]
    if window is not None or (causal and visible is not None):
        distance = torch.arange(T, device=query.device)[:, None] - torch.arange(S, device=query.device)
        near = distance.abs() < (window or S)
        near = near & (distance >= 0) if causal else near
        visible = near if visible is None else visible & near
    return functional.scaled_dot_product_attention(
        query,
        *(key.to(query.dtype), value.to(query.dtype)),
        attn_mask=visible,
        is_causal=causal and visible is None,
        scale=1.0,
        enable_gqa=query.shape[1] != key.shape[1],
    )


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, *tensors):
        result, ctx.gradient = function(*tensors)
        return result.detach()  # what the gradient keeps must not know of what keeps the gradient

    @staticmethod
    def backward(ctx, upstream):
        gradient, ctx.gradient = ctx.gradient, None  # and with it all that it keeps
        found = gradient(upstream)
        return None, *(found if isinstance(found, list | tuple) else [found])


def kernels_by_devices(kernel, bias, widths, counts):
    """On a CPU apart as well, as gradients of parts are then joined over the rows of a kernel, not of all tokens."""
    if bias is not None or not (on_cpu() and torch.is_grad_enabled()):
        return None
    return [(part, None) for part in torch.split(ops.convert_to_tensor(kernel), list(widths), dim=1)]


def custom_gradient(function):
    return lambda *tensors: _WithGradient.apply(function, *map(ops.convert_to_tensor, tensors))


def with_gradient(function, gradient, x, *constants):
    def call(x, *constants):
        return function(x, *constants), lambda upstream: [gradient(upstream, *constants), *[None] * len(constants)]

    return custom_gradient(call)(x, *constants)


def no_gradient(tensor):
    return None


def value_and_gradients(function, variables, state, batch):
    with torch.enable_grad():
        first, second = function(batch)
        gradients = torch.autograd.grad(first, _parameters(variables), allow_unused=True)
    return (first.detach(), second.detach()), list(gradients)


def _parameters(variables):
    with AutocastScope(None):
        return [variable.value for variable in variables]


def input_gradients(function, tensors):
    with torch.enable_grad():
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        values = function(*tensors)
        gradients = torch.autograd.grad(values.sum(), tensors, allow_unused=True, materialize_grads=True)
    return values.detach(), list(gradients)


def accumulate_gradients(function, variables, state, parts, shape=()):
    totals, sums = [ops.zeros(()), ops.zeros(shape)], [None] * len(variables)
    for index in range(keras.tree.flatten(parts)[0].shape[0]):
        part = keras.tree.map_structure(operator.itemgetter(index), parts)
        results, gradients = value_and_gradients(function, variables, state, part)
        totals = [total + result for total, result in zip(totals, results, strict=True)]
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                sums[i] = gradient.float() if sums[i] is None else sums[i].add_(gradient)
    return totals, [
        total if total is None else ops.cast(total, variable.dtype)
        for total, variable in zip(sums, variables, strict=True)
    ]


def clipped_sums(function, variables, state, batch, clip_norm, count, at_once):
    reported, sums = ops.zeros(()), [ops.zeros(variable.shape) for variable in variables]
    for index in range(int(count)):
        example = keras.tree.map_structure(operator.itemgetter(slice(index, index + 1)), batch)
        (_, value), gradients = value_and_gradients(function, variables, state, example)
        reported = reported + value
        scale = scale_of(global_norm(gradients), clip_norm)
        if scale > 0:  # A product with zero would not rid the sums of what is no number.
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float() * scale)
    return reported, sums


def stateless_normal(shape, seed):
    return torch.randn(shape, generator=_generator(seed), device=get_device())


def apply_gradients(optimizer, gradients, variables):
    with torch.no_grad():
        optimizer.apply(gradients, variables)


def global_norm(gradients):
    return torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])


def update_if_finite(update, gradients, norm, variables):
    is_finite = bool(torch.isfinite(norm))
    if is_finite:
        update(gradients)
    return is_finite


def has_fused_adam(variable, gradient):
    return isinstance(variable, keras.Variable) and keras.src.backend.get_stateless_scope() is None


def adam_terms(dtype, learning_rate, iterations, beta_1, beta_2, epsilon, moves=None):
    step = ops.convert_to_tensor(ops.cast(iterations, "float32"))
    # torch adds epsilon to a root that it has corrected for the beginning of a run already.
    epsilon = epsilon / math.sqrt(1 - beta_2 ** (float(step) + 1))
    return {"step": step, "lr": float(learning_rate), "beta1": beta_1, "beta2": beta_2, "eps": epsilon}


def fused_adam(variable, momentum, velocity, gradient, terms):
    lists = [variable.value], [gradient.to(variable.value.dtype)], [momentum.value], [velocity.value], []
    options = {name: value for name, value in terms.items() if name != "step"}
    adam(*lists, [terms["step"].clone()], fused=True, amsgrad=False, weight_decay=0.0, maximize=False, **options)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, count, *given):
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(*given)
        return tuple(result.detach() for result in function(*given[:count]))

    @staticmethod
    def backward(ctx, *upstream):
        given, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        tensors = [tensor.detach().requires_grad_(n) for tensor, n in zip(given[: ctx.count], needed, strict=False)]
        with torch.enable_grad():
            results = ctx.function(*tensors)
        by = [tensor for tensor, n in zip([*tensors, *given[ctx.count :]], needed, strict=True) if n]
        pairs = [pair for pair in zip(results, upstream, strict=True) if pair[0].requires_grad]
        results, upstream = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(results, by, upstream, allow_unused=True))
        return None, None, *(next(found) if n else None for n in needed)


def remat(function, *tensors, variables=(), alike=None):
    return _Recomputed.apply(function, len(tensors), *map(ops.convert_to_tensor, tensors), *_parameters(variables))


def known(tensor):
    if isinstance(tensor, keras.KerasTensor):
        return None
    is_known = not (isinstance(tensor, torch.Tensor) and (tensor.is_meta or _compiled.get()))
    return ops.convert_to_numpy(tensor) if is_known else None


def slice_update(tensor, update, start):
    tensor = tensor if _in_loop.get() else tensor.clone()
    ends = [begin + length for begin, length in zip(start, update.shape, strict=True)]
    tensor[tuple(map(slice, start, ends))] = update.to(tensor.dtype)
    return tensor


def put_row(tensor, row, index):
    tensor = tensor if _in_loop.get() else tensor.clone()
    tensor[index] = row.to(tensor.dtype)
    return tensor


def split(x, sizes, axis):
    return list(torch.split(x, list(sizes), axis))


def while_loop(condition, body, state):
    """As `ops.while_loop`, but numbers stay Python's, and what `slice_update` and `put_row` write to in the body are
    tensors of the state, which are copied once, when the loop begins."""
    state = keras.tree.map_structure(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state)
    token = _in_loop.set(True)
    try:
        while _goes_on(condition(*state)):
            state = body(*state)
            if str(get_device()) == "meta":  # tensors without numbers, of which the shape alone is wanted
                break
    finally:
        _in_loop.reset(token)
    return state


def _goes_on(flag):
    return True if isinstance(flag, torch.Tensor) and flag.is_meta else bool(flag)


def one_by_one(function, count, dtype):
    return torch.stack([ops.cast(function(index), dtype) for index in range(count)])


def exponentials(x, shift):
    return torch.sub(x, shift).exp_()


def scale(x, factors):
    return x * factors if torch.is_grad_enabled() else x.mul_(factors)


def add_at(tensor, index, update):
    add = tensor.scatter_add if torch.is_grad_enabled() else tensor.scatter_add_  # of which nothing else has need
    return add(-1, index.long()[..., None], update.to(tensor.dtype)[..., None])


def matmul(x, y, transpose_x=False, transpose_y=False):
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def grouped_matmul(rows, kernels, sizes):
    if rows.is_meta:
        return rows @ ops.convert_to_tensor(kernels)[0]
    parts = torch.split(rows, sizes.tolist())
    return torch.cat([part @ kernel for part, kernel in zip(parts, ops.convert_to_tensor(kernels), strict=True)])


def dense(x, kernel, bias=None):
    tensors = [ops.convert_to_tensor(tensor) for tensor in (x, kernel, bias) if tensor is not None]
    return functional.linear(tensors[0], tensors[1].mT, *tensors[2:])


def stateless_uniform(shape, seed):
    return torch.rand(shape, generator=_generator(seed), device=get_device()).clamp_(min=1e-20)


def dropout(x, rate, seed):
    if x.is_meta:
        return x
    generator = _generator(seed[0] if len(getattr(seed, "shape", (2,))) == 2 else seed)
    kept = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - rate, generator=generator)
    return torch.where(kept, x / (1 - rate), 0.0)


def _generator(seed):
    """A generator for numbers that depend on a few int32 alone."""
    key = 0
    for part in seed.tolist() if isinstance(seed, torch.Tensor) else seed:
        key = (key + int(part)) * _MIX & 0xFFFFFFFFFFFFFFFF
        key ^= key >> 29
    return torch.Generator(get_device()).manual_seed(key)
