"""What layers on sequences of vectors refuse, in one sentence each."""


def check_vectors(layer, name, value, width=None, rank=3):
    """Refuses what is no batch of sequences of vectors, such as token ids.

    Args:
        layer, name: str, of the layer and its argument.
        value: tensor or array.
        width: int or None, that of the vectors where it is known.
        rank: int, the number of axes.
    """
    shape, kind = tuple(getattr(value, "shape", ())), str(getattr(value, "dtype", type(value).__name__))
    if len(shape) != rank or "float" not in kind:
        raise ValueError(
            f"{layer} takes vectors as `{name}`, float (B, T, width), got {kind} of shape {shape}: token ids become "
            f"vectors in an Embedding."
        )
    if None not in (width, shape[-1]) and shape[-1] != width:
        raise ValueError(f"{layer} was built for vectors of width {width}, got `{name}` of shape {shape}.")


def check_shape(layer, name, value, shapes):
    """Refuses a tensor that has none of these shapes: None is any size, and 1 stands for all."""
    found = tuple(getattr(value, "shape", ()))
    for shape in shapes:
        if len(shape) == len(found) and all(
            None in pair or 1 in pair[1:] or pair[0] == pair[1] for pair in zip(shape, found, strict=True)
        ):
            return
    possible = " or ".join(str(shape).replace("None", "any") for shape in shapes)
    raise ValueError(f"`{name}` of {layer} must have the shape {possible}, got {found}.")
