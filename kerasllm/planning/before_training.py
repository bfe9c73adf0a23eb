"""What `kerasllm train` says before it begins, and when it does not begin."""

import datetime
import warnings

import keras

from kerasllm.planning.calibration import Calibration
from kerasllm.planning.making_fit import remedies
from kerasllm.planning.training_plan import plan
from kerasllm.planning.words import gigabytes, percent_more

# Of what there is, the share from which on it may not do: a plan is not exact, and others want memory too.
_MAY_NOT_DO = 0.9


def plan_of_run(settings, task, config):
    """The `Plan` of a run of `kerasllm train`, or None where its memory is not counted.

    Args:
        settings: `settings.TrainSettings`.
        task: `tasks.Task`.
        config: TransformerConfig, as it will be trained.
    """
    is_counted = task.planned_as is not None and settings.teacher is None and settings.dp_epsilon is None
    if not is_counted or config.num_encoder_layers or keras.distribution.distribution() is not None:
        return None
    return plan(
        config,
        task.rows_per_step,
        loss=task.loss(),
        micro_batches=settings.micro_batches,
        precision=settings.precision,
        optimizer=settings.optimizer,
        evaluates=True,
        **task.planned_as,
    )


def check_memory(foreseen, force=False):
    """Refuses a run that is foreseen to take more memory than there is, and warns of one that nearly does.

    Args:
        foreseen: `Plan`, or None, of which nothing is known.
        force: bool. Warn in place of refusing.

    Raises:
        ValueError: with the cheapest changes that make it fit.
    """
    limit = None if foreseen is None else foreseen.device.memory_bytes
    if limit is None or (peak := foreseen.memory_bytes["peak"]) <= _MAY_NOT_DO * limit:
        return
    says = f"This run takes about {gigabytes(peak)} of memory, and {gigabytes(limit)} are free. {_advice(foreseen)}"
    if peak > limit and not force:
        raise ValueError(f"{says} --force begins all the same.")
    warnings.warn(f"Memory may not do. {says}", stacklevel=2)


def sentences(foreseen, steps):
    """Yields what is said of a `Plan`, or None, before a run of so many steps begins."""
    if foreseen is None:
        return
    memory, limit = dict(foreseen.memory_bytes), foreseen.device.memory_bytes
    peak = memory.pop("peak")
    largest = sorted(memory.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {gigabytes(number)}" for name, number in largest)
    of_free = "" if limit is None else f" of {gigabytes(limit)} that are free"
    yield f"Memory at its peak: about {gigabytes(peak)}{of_free} ({parts})"
    seconds = foreseen.seconds_per_step
    if seconds is not None:
        whole = datetime.timedelta(seconds=round(seconds * steps))
        yield (
            f"Time: about {seconds:,.2f} s a step, {foreseen.tokens_per_second:,.0f} tokens/s, {whole} in all, by what "
            f"was measured of this machine on {foreseen.device.calibration.measured}"
        )
    elif not Calibration.kept().measured:
        yield "How long it takes is foreseen once kerasllm plan --calibrate has measured this machine"


def _advice(foreseen):
    found = remedies(foreseen, _MAY_NOT_DO * foreseen.device.memory_bytes)
    if not found:
        return "No change that leaves what is learned as it is makes it fit: take a smaller model, context or batch."
    told = [
        f"{remedy.flags} ({gigabytes(remedy.plan.memory_bytes['peak'])}, {percent_more(remedy.cost)})"
        for remedy in found
    ]
    return f"It fits with any of these, the cheapest first: {'; '.join(told)}."
