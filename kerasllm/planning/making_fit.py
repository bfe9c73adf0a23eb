"""What makes a run fit into memory: the changes that there are, by what they cost."""

import dataclasses

from kerasllm.layers.block_options import REMAT
from kerasllm.planning.training_plan import Plan, plan_of

CHUNK = 256
MICRO_BATCHES = (2, 4, 8, 16, 32, 64)
# What a change is held to cost where seconds are not known: as a share of a step's time, more or less.
_OF_PARTS = 0.01


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A change that makes a run fit.

    Attributes:
        flags: str, what to add to the command, such as "--loss-chunk 256 --micro-batches 2".
        plan: `Plan` of the changed run.
        cost: float, by what a step takes longer, as a share of its time; about.
    """

    flags: str
    plan: Plan
    cost: float


def remedies(plan, limit=None, count=3):
    """The cheapest changes with which a run fits into memory, none of which changes what is learned.

    Args:
        plan: `Plan`.
        limit: float or None, bytes that there are; None means what the device has.
        count: int, how many at most.

    Returns:
        A list of `Remedy`, the cheapest first; of those that differ in what they are made of, the cheapest of each.

    Raises:
        ValueError: if it is not known how much memory there is.
    """
    limit = plan.device.memory_bytes if limit is None else limit
    if limit is None:
        raise ValueError("It is not known how much memory the device has: say it as `limit`.")
    found = {}
    for training, flags in _changes(plan.training):
        changed = plan_of(training, plan.device, plan.tokens)
        kinds = tuple(flag.split()[0] for flag in flags)
        if changed.memory_bytes["peak"] <= limit:
            remedy = Remedy(" ".join(flags), changed, _cost(plan, changed))
            if kinds not in found or remedy.cost < found[kinds].cost:
                found[kinds] = remedy
    # What has more changes than another that does with some of them is no remedy of its own.
    needed = [kinds for kinds in found if not any(set(other) < set(kinds) for other in found)]
    return sorted((found[kinds] for kinds in needed), key=lambda remedy: (remedy.cost, remedy.flags))[:count]


def _changes(training):
    """Pairs of a `TrainingMemory` and the flags that make it of the one that there is."""
    remats = [None, *(REMAT[1:] if training.config.remat is None else ())]
    configs = {remat: dataclasses.replace(training.config, remat=remat) for remat in remats if remat}
    for chunk in (None, CHUNK) if training.loss_chunk is None else (None,):
        for parts in (1, *(n for n in MICRO_BATCHES if training.micro_batches < n <= training.batch_size)):
            for remat in remats:
                changes, flags = {}, []
                if chunk:
                    changes["loss_chunk"], flags = chunk, [*flags, f"--loss-chunk {chunk}"]
                if parts > 1:
                    changes["micro_batches"], flags = parts, [*flags, f"--micro-batches {parts}"]
                if remat:
                    changes["config"], flags = configs[remat], [*flags, f"--remat {remat}"]
                if flags:
                    yield dataclasses.replace(training, **changes), flags


def _cost(plan, changed):
    if plan.seconds_per_step is not None:
        return changed.seconds_per_step / plan.seconds_per_step - 1
    parts = changed.training.micro_batches - plan.training.micro_batches
    return changed.flops_per_step / plan.flops_per_step - 1 + _OF_PARTS * parts
