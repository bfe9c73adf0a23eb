"""Rotary positions as config.json says them, and as we do."""

from kerasllm.layers.rotary import ROPE_SCALINGS


def rope(settings, theta=10000.0, share=None):
    """The fields of rotary positions and of the longest text, from what transformers 5 writes or earlier ones did.

    Args:
        settings: Settings.
        theta: float, what an absent base means.
        share: float, what an absent `partial_rotary_factor` means; None where there are only whole heads.
    """
    new = settings.take("rope_parameters", {})
    given = dict(settings.take("rope_scaling") or new)
    length = settings.take("max_position_embeddings")
    trained = settings.take("original_max_position_embeddings")
    if trained is not None:  # Beside the other numbers it stands above one among them.
        given["original_max_position_embeddings"] = trained
    given.setdefault("partial_rotary_factor", settings.take("partial_rotary_factor") if share is None else share)
    fields = rotation(settings, given, settings.take("rope_theta", theta), length, partly=share is not None)
    settings.ignore("partial_rotary_factor")
    return {**fields, "max_length": longest_text(fields["rope_scaling"], length)}


def rotation(settings, given, theta, length, partly=False):
    """The fields of one rotation.

    Args:
        settings: Settings.
        given: dict of its parameters.
        theta: float, what an absent base means.
        length: int, `max_position_embeddings`.
        partly: bool. The family knows heads that are turned in part.
    """
    kind = given.get("rope_type") or given.get("type") or "default"
    if "short_factor" in given and kind in ("su", "yarn"):  # as Phi-3 was first published
        kind = "longrope"
    if kind != "default" and kind not in ROPE_SCALINGS:
        settings.refuse("rope_type", kind, f"'default', {', '.join(map(repr, ROPE_SCALINGS))}")
    share = given.get("partial_rotary_factor") or 1.0
    if not partly and kind == "default":
        share = 1.0  # transformers does not look at it then.
    elif not partly and kind != "proportional" and share != 1:
        settings.refuse("partial_rotary_factor", share, 1.0)
    scaling = None if kind == "default" else _scaling(kind, given, length)
    return {
        "rope_theta": float(given.get("rope_theta") or theta),
        "rope_scaling": scaling,
        "partial_rotary_factor": share,
    }


def _scaling(kind, given, length):
    """All numbers that a kind of scaling reads, and no others."""
    numbers = {name: value for name, value in given.items() if value is not None}
    if kind == "dynamic":
        numbers["original_max_position_embeddings"] = length
    trained = numbers.setdefault("original_max_position_embeddings", length)
    if kind in ("yarn", "longrope"):
        numbers.setdefault("factor", length / trained)
    needed, others = ROPE_SCALINGS[kind]
    return {"rope_type": kind, **{name: numbers[name] for name in (*needed, *others) if name in numbers}}


def longest_text(scaling, length):
    """How long texts may be: `max_position_embeddings` is that of the training where a scaling is put on later."""
    if scaling and scaling["rope_type"] in ("dynamic", "yarn"):
        return max(length, int(scaling["factor"] * scaling["original_max_position_embeddings"]))
    return length


def rope_parameters(config):
    """What transformers reads, of both its ages."""
    theta, scaling = config.rope_theta, config.rope_scaling
    parameters = rotation_parameters(theta, scaling, config.partial_rotary_factor)
    older = {name: value for name, value in parameters.items() if name != "rope_theta"}
    return {
        "max_position_embeddings": trained_length(config),
        "rope_theta": theta,
        "rope_scaling": older if scaling else None,
        "rope_parameters": parameters,
    }


def rotation_parameters(theta, scaling, share):
    """The parameters of one rotation."""
    numbers = dict(scaling or {"rope_type": "default"})
    if numbers["rope_type"] == "dynamic":
        del numbers["original_max_position_embeddings"]  # It is `max_position_embeddings`.
    return {"rope_theta": theta, **numbers, **({"partial_rotary_factor": share} if share != 1 else {})}


def trained_length(config):
    """`max_position_embeddings`: the longest text, but for the scaling that begins to stretch from there on."""
    of_dynamic = [
        scaling for scaling in config.by_layer("rope_scaling") if scaling and scaling["rope_type"] == "dynamic"
    ]
    return of_dynamic[0]["original_max_position_embeddings"] if of_dynamic else config.max_length
