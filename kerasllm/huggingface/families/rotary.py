"""Rotary positions as config.json says them, before transformers 5 and since, and as we do."""

from kerasllm.huggingface.families.family import Row
from kerasllm.layers.rotary import ROPE_SCALINGS


def rotary(theta=10000.0, theta_name="rope_theta", share_name=None, scalings=tuple(ROPE_SCALINGS)):
    """The row of rotary positions, and of the longest text, which they decide.

    Args:
        theta: float, what an absent base means.
        theta_name: str, the older setting of the base.
        share_name: str, the older setting of the share of a head that is turned; None where heads are turned whole.
        scalings: tuple of str, the values of `rope_type` that the family knows.
    """

    def read(settings, fields):
        newer = settings.take("rope_parameters", {})
        parameters = dict(settings.take("rope_scaling") or newer)
        length = settings.take("max_position_embeddings")
        trained = settings.take("original_max_position_embeddings")
        if trained is not None:  # Beside the other parameters it counts more than among them.
            parameters["original_max_position_embeddings"] = trained
        parameters.setdefault("partial_rotary_factor", settings.take(share_name or "partial_rotary_factor"))
        found = read_rotation(
            settings, parameters, settings.take(theta_name, theta), length, partly=bool(share_name), scalings=scalings
        )
        settings.ignore("partial_rotary_factor")
        return {**found, "max_length": longest_text(found["rope_scaling"], length)}

    def write(config):
        share, scaling = config.partial_rotary_factor, config.rope_scaling
        parameters = write_rotation(config.rope_theta, scaling, share)
        older = {name: value for name, value in parameters.items() if name != "rope_theta"}
        return {
            "max_position_embeddings": trained_length(config),
            "rope_theta": config.rope_theta,
            theta_name: config.rope_theta,
            "rope_scaling": older if scaling else None,
            "rope_parameters": {**parameters, "partial_rotary_factor": share} if share_name else parameters,
            **({share_name: share} if share_name else {}),
        }

    return Row(read, write)


def read_rotation(settings, parameters, theta, length, partly=False, scalings=tuple(ROPE_SCALINGS)):
    """The fields of one rotation.

    Args:
        settings: Settings.
        parameters: dict, of config.json.
        theta: float, what an absent base means.
        length: int, `max_position_embeddings`.
        partly: bool. The family knows heads that are turned in part.
        scalings: tuple of str, the values of `rope_type` that it knows.
    """
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if "short_factor" in parameters and kind in ("su", "yarn"):  # as Phi-3 was first published
        kind = "longrope"
    if kind not in ("default", *scalings):
        settings.refuse("rope_type", kind, "default", *scalings)
    share = parameters.get("partial_rotary_factor") or 1.0
    if not partly and kind == "default":
        share = 1.0  # transformers does not look at it then.
    elif not partly and kind != "proportional" and share != 1:
        settings.refuse("partial_rotary_factor", share, 1.0)
    return {
        "rope_theta": float(parameters.get("rope_theta") or theta),
        "rope_scaling": None if kind == "default" else _scaling(kind, parameters, length),
        "partial_rotary_factor": share,
    }


def _scaling(kind, parameters, length):
    """All parameters that a kind of scaling reads, and no others."""
    parameters = {name: value for name, value in parameters.items() if value is not None}
    if kind == "dynamic":
        parameters["original_max_position_embeddings"] = length
    trained = parameters.setdefault("original_max_position_embeddings", length)
    if kind in ("yarn", "longrope"):
        parameters.setdefault("factor", length / trained)
    needed, others = ROPE_SCALINGS[kind]
    return {"rope_type": kind, **{name: parameters[name] for name in (*needed, *others) if name in parameters}}


def write_rotation(theta, scaling, share):
    """The parameters of one rotation."""
    scaling = dict(scaling or {"rope_type": "default"})
    if scaling["rope_type"] == "dynamic":
        del scaling["original_max_position_embeddings"]  # It is `max_position_embeddings`.
    return {"rope_theta": theta, **scaling, **({"partial_rotary_factor": share} if share != 1 else {})}


def longest_text(scaling, length):
    """How long texts may be: `max_position_embeddings` is that of the training where a scaling is put on later."""
    if scaling and scaling["rope_type"] in ("dynamic", "yarn"):
        return max(length, int(scaling["factor"] * scaling["original_max_position_embeddings"]))
    return length


def trained_length(config):
    """`max_position_embeddings`: the longest text, but for the scaling that begins to stretch from there on."""
    of_dynamic = [
        scaling for scaling in config.by_layer("rope_scaling") if scaling and scaling["rope_type"] == "dynamic"
    ]
    return of_dynamic[0]["original_max_position_embeddings"] if of_dynamic else config.max_length
