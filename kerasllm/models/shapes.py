"""What any causal Keras model, ours or a user's own, takes and gives: the lengths of text and the width of logits."""

import warnings

import keras
from keras import ops

from kerasllm.layers import MultiHeadAttention
from kerasllm.models.language_model import LanguageModel


def fixed_length(model):
    """The one length that a Functional model with a static `Input` takes, or None. (Sequential takes any.)"""
    if not isinstance(model, keras.Function) or len(model.inputs) != 1 or len(model.inputs[0].shape) != 2:
        return None
    return model.inputs[0].shape[1]


def built_length(model):
    """The length that a model was built on, which for a Sequential is that of the first batch it saw, or None."""
    inputs = getattr(model, "inputs", None)
    return inputs[0].shape[1] if inputs and len(inputs[0].shape) > 1 else None


def context_length(model):
    """The longest text in tokens that a model takes, or None where it has no limit."""
    if isinstance(model, LanguageModel):
        return model.config.max_length
    limits = [fixed_length(model), *(getattr(layer, "max_length", None) for layer in (model, *model.layers))]
    return min((limit for limit in limits if isinstance(limit, int) and limit), default=None)


def length_dependent_rotations(model):
    """The rotary positions of a model's layers whose angles are others in longer texts: see `layers.rotary`."""
    attentions = [layer for layer in model._flatten_layers() if isinstance(layer, MultiHeadAttention)]
    return [layer.rotation for layer in attentions if layer.rotation is not None and layer.rotation.depends_on_length]


def needs_endings(model):
    """Whether logits depend on the length of a text, so that a call on padded texts must say where each ends.

    Raises:
        ValueError: if they do, and the model is of a kind that cannot be told.
    """
    if not length_dependent_rotations(model):
        return False
    if not hasattr(model, "hidden_states"):
        raise ValueError(
            f"{model.name} has rotary positions that depend on the length of a text (`rope_scaling` of type 'dynamic' "
            "or 'longrope'), and cannot be told where a padded text ends: make it a CausalLM."
        )
    return True


def positions_until(last, length):
    """Position ids (B, length) of texts that end at places `last` (B,): what follows does not make them longer."""
    return ops.minimum(ops.arange(length, dtype="int32")[None], last[:, None])


def output_width(model):
    """The number of logits that a model gives for each token.

    Raises:
        ValueError: if the model does not map token ids (B, T) to logits (B, T, V).
    """
    if isinstance(model, LanguageModel):
        return model.config.vocab_size
    wanted = f"{model.name} must map token ids (B, T) to logits (B, T, V)"
    if type(model).__module__.startswith(("keras_hub", "keras_nlp")):
        raise ValueError(f"{wanted}: of a model of KerasHub kerasllm.keras_hub.load(its backbone) makes one.")
    if len(getattr(model, "outputs", None) or ()) > 1:
        raise ValueError(f"{wanted}, but has several outputs; keras.Model(model.inputs, model.outputs[0]) has one.")
    try:
        shape = model(keras.KerasTensor((None, fixed_length(model)), "int32")).shape
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{wanted}, but a call on ids fails: {error}") from error
    if len(shape) != 3:
        raise ValueError(f"{wanted}, but its output is {shape}.")
    return shape[-1]


def log_of_probabilities(model):
    """A function that makes logits of what a model gives: of probabilities, which a model gives whose last layer is a
    softmax, it takes the logarithm, and it does nothing to logits."""
    if not _ends_in_softmax(model):
        return lambda outputs: outputs
    warnings.warn(
        f"{model.name} ends in a softmax, so its outputs are taken for probabilities. A last layer without it gives "
        "logits, which are exact where probabilities are small.",
        stacklevel=4,
    )
    return lambda outputs: ops.log(ops.maximum(ops.cast(outputs, "float32"), 1e-37))


def _ends_in_softmax(layer):
    """Whether the last layer of a model, of one inside it, or of a wrapper such as `TimeDistributed`, is a softmax."""
    inner = getattr(layer, "layer", None)
    if isinstance(inner, keras.layers.Layer):
        return _ends_in_softmax(inner)
    if isinstance(layer, keras.Sequential | keras.Function) and layer.layers:
        return _ends_in_softmax(layer.layers[-1])
    if isinstance(layer, keras.layers.Softmax):
        return True
    return getattr(layer, "activation", None) in (keras.activations.softmax, keras.ops.softmax)
