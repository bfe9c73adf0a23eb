"""Names for what happens inside a model, by which it can be recorded and changed.

Layers say `x = tap(x, self, "query")`. Outside the context managers below that is `x` itself and costs nothing. Within
them it acts in eager calls, and in all that is traced or compiled then: `fit`, `evaluate`, `predict` and `generate`
compile anew for it. Names are those of weights: the path of a layer, and what it is there.

| Name | Shape | What |
|---|---|---|
| `embedding` | (B, T, D) | what the first block reads, positions included |
| `block_0/input`, `block_0/output` | (B, T, D) | the residual stream before and after a block |
| `block_0/after_attention`, `block_0/before_feed_forward` | (B, T, D) | the same between its sublayers |
| `block_0/attention_norm`, `block_0/feed_forward_norm` … | (B, T, D) | what a norm makes of it |
| `attention/query`, `attention/key`, `attention/value` | (B, heads, T, h) | before rotary positions turn them |
| `attention/scores` | (B, H, T, S) | products of queries and keys, before hidden keys are taken out |
| `attention/probabilities` | (B, H, T, S) | their softmax |
| `attention/heads` | (B, H, T, h) | what each head read |
| `attention/output` | (B, T, D) | what attention adds to the residual stream |
| `feed_forward/inner` | (B, T, dff) | behind the activation |
| `feed_forward/router` | (B, T, experts) | in a mixture of experts, in the place of `inner`: their probabilities |
| `feed_forward/output` | (B, T, D) | what the feed-forward layer adds |
| `final_norm` | (B, T, D) | what the output layer reads |
| `logits` | (B, T, V) | |

Layers that share a block (`num_layer_groups`) share its names, too: what passes there passes once for each, in order.
"""

import contextlib
import contextvars
import fnmatch

from kerasllm import backend

_listeners = contextvars.ContextVar("listeners", default=())


class _Listener:
    """What listens to names.

    Args:
        patterns: list of str.
        function: a function (tensor, name) -> tensor.
        model: the Keras model whose taps alone it listens to, or None for all.
    """

    def __init__(self, patterns, function, model):
        self.function = function
        self.compiled = {}  # what is made while this is the last that listens
        self._patterns = patterns
        self._layers = None if model is None else frozenset(map(id, model._flatten_layers()))

    def hears(self, layer, name):
        return (self._layers is None or id(layer) in self._layers) and any(
            matches(f"{layer.path}/{name}", pattern) for pattern in self._patterns
        )


def tap(x, layer, name):
    """The tensor `x`, called `name` in a layer; or what stands in its place, where it is changed."""
    for listener in _listeners.get():
        if listener.hears(layer, name):
            x = listener.function(x, f"{layer.path}/{name}")
    return x


def is_tapped(layer, *names):
    """Whether anything listens to one of these names, so that it has to be computed."""
    return any(listener.hears(layer, name) for listener in _listeners.get() for name in names)


def listeners():
    """All that listens: what is traced while that is something belongs to it alone."""
    return _listeners.get()


def compiled_for(owner, name):
    """A dict for functions that are compiled for a layer or a model, under a name of its own.

    What is compiled while something listens has that in it: it is found again while just that listens, and gone after.
    """
    if not _listeners.get():
        return vars(owner).setdefault(name, {})
    return _listeners.get()[-1].compiled.setdefault((id(owner), name), {})


@contextlib.contextmanager
def recording(*patterns, model=None):
    """Keeps what passes taps.

    Args:
        *patterns: str. Names, or ends of them, in which `*` stands for anything.
        model: the Keras model whose taps alone are meant, or None for those of all models.

    Yields:
        dict from names to lists of what passed there, in order: tensors, and NumPy arrays of what a function computes
        that was compiled within, such as `fit` and `generate`.

    Example:
        >>> with kerasllm.layers.taps.recording("block_*/output") as found:
        ...     model(token_ids)
        >>> found["causal_lm/transformer/block_0/output"][0].shape
        TensorShape([1, 10, 64])
    """
    found = {}
    here = backend.current_graph()

    def record(x, name):
        kept = found.setdefault(name, [])
        if backend.current_graph() is here:
            kept.append(x)
        else:
            backend.call_on_host(kept.append, x)
        return x

    with _listening(patterns, record, model):
        yield found
        backend.wait_for_host()


@contextlib.contextmanager
def changing(functions, model=None):
    """Puts something else in the place of what passes taps.

    Args:
        functions: dict from patterns, as in `recording`, to functions (tensor) -> tensor, of `keras.ops`.
        model: as in `recording`.

    Example:
        >>> with kerasllm.layers.taps.changing({"block_1/attention/output": keras.ops.zeros_like}):
        ...     text = kerasllm.generate(model, tokenizer, "Once upon a time")
    """
    with contextlib.ExitStack() as stack:
        for pattern, function in functions.items():
            stack.enter_context(_listening([pattern], lambda x, name, function=function: function(x), model))
        yield


@contextlib.contextmanager
def _listening(patterns, function, model):
    token = _listeners.set((*_listeners.get(), _Listener(patterns, function, model)))
    try:
        yield
    finally:
        _listeners.reset(token)


def matches(path, pattern):
    """Whether a pattern, in which `*` stands for anything, is a path or the end of one; with "/" before it, a path."""
    if pattern.startswith("/"):
        return fnmatch.fnmatchcase(path, pattern[1:])
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}")
