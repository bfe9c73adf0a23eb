"""Rotary positions as config.json says them, and as we do."""


def rope(settings, theta=10000.0, share=None):
    """The fields of rotary positions, from what transformers 5 writes or earlier ones did.

    Args:
        settings: Settings.
        theta: float, what an absent base means.
        share: float, what an absent `partial_rotary_factor` means; None where there are only whole heads.
    """
    given = {**(settings.take("rope_scaling") or {}), **(settings.take("rope_parameters") or {})}
    given["rope_theta"] = given.get("rope_theta") or settings.take("rope_theta", theta)
    settings.ignore("rope_theta")
    if share is None:
        return rotation(settings, given)
    share = given.pop("partial_rotary_factor", None) or share
    return {**rotation(settings, given), "partial_rotary_factor": share}


def rotation(settings, given):
    """The fields of a rotation of whole heads, from a dict of parameters."""
    given = dict(given)
    kind = given.pop("rope_type", None) or given.get("type", "default")
    given.pop("type", None)
    share = given.pop("partial_rotary_factor", 1.0)
    if share != 1.0:
        settings.refuse("partial_rotary_factor", share, 1.0)
    if kind not in ("default", "linear", "llama3"):
        settings.refuse("rope_type", kind, "'default', 'linear' or 'llama3'")
    theta = float(given.pop("rope_theta"))
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else {"rope_type": kind, **given}}


def rope_parameters(config):
    """What transformers reads, of both its ages."""
    parameters = rotation_parameters(config.rope_theta, config.rope_scaling)
    if config.partial_rotary_factor != 1.0:
        parameters["partial_rotary_factor"] = config.partial_rotary_factor
    return {"rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling, "rope_parameters": parameters}


def rotation_parameters(theta, scaling):
    return {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
