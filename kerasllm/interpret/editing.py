"""Something else in the place of what happens inside a model."""

import contextlib
import difflib

import numpy as np
from keras import ops

from kerasllm.layers import taps
from kerasllm.training.screened_model import ScreenedModel

# What Keras has compiled for a model, which knows nothing of what is edited.
_COMPILED = ("train_function", "test_function", "predict_function")


def names(model):
    """What there is to see inside a model.

    Args:
        model: any Keras model of our layers.

    Returns:
        A list of str, in the order in which they are computed: see `layers.taps` for what they mean.

    Example:
        >>> interpret.names(model)[:2]
        ['transformer/embedding', 'transformer/block_0/input']
    """
    known = vars(model).get("_tap_names")
    if known is None:
        with taps.recording("*", model=model) as found:
            model(_smallest_inputs(model), training=False)
        known = vars(model)["_tap_names"] = [without_model(model, name) for name in found]
    return list(known)


def without_model(model, name):
    """The name of a tap without that of the model, with which Keras begins paths."""
    return name.removeprefix(f"{model.path}/")


def check_names(model, patterns):
    """Refuses patterns that are no name inside a model.

    Raises:
        TypeError: for what is no str.
        ValueError: for a pattern that nothing has.
    """
    known = names(model)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"Names are str, in which * stands for anything, got {type(pattern).__name__}.")
        if not any(taps.matches(f"{model.path}/{name}", pattern) for name in known):
            close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.4)
            advice = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"Nothing inside {model.name} is called {pattern!r}.{advice} interpret.names(model) lists all."
            )


@contextlib.contextmanager
def edit(model, functions):
    """Within it, something else stands in the place of what happens inside a model, wherever that is called: eagerly,
    in `predict`, `evaluate` and `fit`, with their gradients, and in the compiled loop of `generate`.

    What is compiled within is compiled once for it, and gone when it ends. Other models are left alone, and so are
    other threads. A `tf.function` or `jax.jit` of your own stays what it was when it was traced.

    Args:
        model: a Keras model of our layers.
        functions: dict from names, or ends of them in which `*` stands for anything (see `names`), to functions
            (tensor) -> tensor of the same shape, made of `keras.ops`. While text is generated, a function sees the
            prompts first, (B, T, ...), and then one new token of each row at a time. Several that have the same tensor
            act in order.

    Raises:
        TypeError: if a name is no str, or what is to change it no function.
        ValueError: for a name that nothing has, and for a result of another shape.

    Example:
        >>> with interpret.edit(model, {"block_0/attention/output": lambda x: 0 * x}):
        ...     text = kerasllm.generate(model, tokenizer, "The class", max_new_tokens=8)
    """
    check_names(model, functions)
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name!r} is changed by a function (tensor) -> tensor, got {type(function).__name__}.")
    compiled = {name: getattr(model, name, None) for name in _COMPILED}
    try:
        for name in _COMPILED:
            setattr(model, name, None)
        with taps.changing({name: _checked(name, f) for name, f in functions.items()}, model=model):
            yield
    finally:
        for name, function in compiled.items():
            setattr(model, name, function)


def _checked(name, function):
    """The same function, whose result has the dtype of what it replaces, and must have its shape."""

    def changed(x):
        y = function(x)
        if y is x:
            return x
        y = ops.convert_to_tensor(y, dtype=x.dtype)
        pairs = zip(x.shape, y.shape, strict=True) if len(x.shape) == len(y.shape) else [(0, 1)]
        if any(None not in pair and pair[0] != pair[1] for pair in pairs):
            raise ValueError(
                f"The function for {name!r} must return the shape that it is given, {tuple(x.shape)}, got "
                f"{tuple(y.shape)}."
            )
        return y

    return changed


def _smallest_inputs(model):
    """Some inputs that a model takes."""
    if isinstance(model, ScreenedModel):
        return {name: np.zeros((1, 2), "int32") for name in model.needed_inputs}
    if not getattr(model, "inputs", None):  # of a model that was not called yet
        return np.zeros((1, 2), "int32")
    arrays = [np.zeros([1, *(size or 2 for size in x.shape[1:])], x.dtype) for x in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays
