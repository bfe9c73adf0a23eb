"""The weights of a model by name."""


def weight_names(model):
    """Maps a stable name to each weight of a model: its path inside the model.

    Keras puts the model's own name first (`causal_lm_1/...` for the second model of a program); that is left out.

    Args:
        model: a built Keras model.

    Returns:
        A dict from name to Keras variable, in the model's order; tied weights appear once.
    """
    names = {weight.path.partition("/")[2]: weight for weight in model.weights}
    if len(names) != len(model.weights):
        raise ValueError(f"{type(model).__name__} has weights that share a path; give its layers names of their own.")
    return names
