"""Activations computed again in the backward pass in place of being kept: less memory for more arithmetic.

Keras' own `keras.remat` draws new dropout masks when it computes again on TensorFlow, which makes gradients wrong. Here
dropout takes its seeds from one that is drawn outside, so that both passes drop the same elements.

Reference: Chen et al. 2016, https://arxiv.org/abs/1604.06174
"""

import contextlib
import contextvars
import itertools

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.likeness import identity, likeness

_MIX = -1640531535  # odd and large: 2^32 over the golden ratio, as an int32
# A seed int32 (2,) and a counter of what was drawn from it, inside a function that may be computed again.
_repeatable = contextvars.ContextVar("repeatable", default=None)


def next_seed(dropout):
    """The seed int32 (2,) of a dropout layer's next mask; None for no layer, or one that drops nothing."""
    if dropout is None or not dropout.rate:
        return None
    if _repeatable.get() is None:
        return ops.cast(dropout.seed_generator.next(), "int32")
    # Keras' generators count in the second number, so the first is mixed; not added to, as these functions may nest.
    seed, count = _repeatable.get()
    return ops.stack([seed[0] * _MIX + next(count), seed[1]])


def rematerialized(function, layer, dropout=None, through=()):
    """A function like the given one, whose results are computed again in the backward pass.

    Args:
        function: a layer or method of a layer. Gradients reach its positional arguments, tensors or None; others, such
            as masks, it is given by name.
        layer: the layer, in which losses may be added: those by `add_loss` and by regularizers of activations are its
            own then.
        dropout: a Dropout layer inside, of which the seeds of all are made; where it drops nothing, another one that
            there may be in an adapter.
        through: names of arguments that gradients are to reach as well.
    """

    def call(*arguments, **options):
        named = {name: options.pop(name) for name in through if name in options}
        seed = next_seed(dropout)
        if seed is None:
            seed = next_seed(next(filter(_drops, layer._flatten_layers()), None))
        everything = [*arguments, *named.values(), seed]
        places = [place for place, tensor in enumerate(everything) if tensor is not None]

        def repeatable(*given):
            tensors = [None] * len(everything)
            for place, tensor in zip(places, given, strict=True):
                tensors[place] = tensor
            of_names = dict(zip(named, tensors[len(arguments) : -1], strict=True))
            token = _repeatable.set((tensors[-1], itertools.count(1)))
            try:
                with _added_losses(layer) as added:
                    output = function(*tensors[: len(arguments)], **of_names, **options)
            finally:
                _repeatable.reset(token)
            return output, *added

        given = [everything[place] for place in places]
        of_layer = likeness(layer)
        of_call = getattr(function, "__name__", ""), tuple(places), identity([*named, options])
        alike = None if of_layer is None else (of_layer, *of_call)
        output, *losses = backend.remat(repeatable, *given, variables=layer.weights, alike=alike)
        for loss in losses:
            layer.add_loss(loss)
        return output

    return call


@contextlib.contextmanager
def _added_losses(layer):
    """Takes the losses that are added within out of Keras' lists, tensors that end with a function computed again."""
    scope, added = keras.src.backend.get_stateless_scope(), []
    lists = [scope.losses] if scope else [part._losses for part in layer._flatten_layers()]
    before = [list(losses) for losses in lists]
    yield added
    for losses, kept in zip(lists, before, strict=True):
        known = set(map(id, kept))  # not their number: in the backward pass Keras empties a list first
        added += [loss for loss in losses if id(loss) not in known]
        losses[:] = kept


def _drops(layer):
    return isinstance(layer, keras.layers.Dropout) and layer.rate
