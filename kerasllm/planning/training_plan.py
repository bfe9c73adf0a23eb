"""`plan`: what training a model of a config takes."""

import dataclasses
import math

from kerasllm.layers.tiles import is_long
from kerasllm.models.memory import PARTS, TrainingMemory
from kerasllm.planning.counting import flops_of_step, step_seconds
from kerasllm.planning.device_table import Device, device_of
from kerasllm.training import precision as precision_of

# Bytes of a number in kernels that others or we have quantised, with their scales.
KERNEL_BYTES = {"nf4": 0.5625, "nf4-dq": 0.516, "fp4": 0.5625, "int4": 0.5625, "int8": 1.02}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What training takes, as `plan` foresees it.

    Attributes:
        training: `models.memory.TrainingMemory`, what is trained how.
        device: `Device`, on what.
        memory_bytes: dict of int by part ("weights", "gradients", "optimizer", "activations", "logits", "workspace"),
            at the moment when it is most, and "peak", their sum. It is what a process takes above what it has once
            Keras is imported.
        seconds_per_step: float, or None where the device's speed is not known.
        tokens: int or None, to train on in all.
    """

    training: TrainingMemory
    device: Device
    memory_bytes: dict
    seconds_per_step: float | None
    tokens: int | None = None

    @property
    def parameters(self):
        return self.training.config.num_parameters()

    @property
    def trained_parameters(self):
        return self.training.numbers_trained

    @property
    def tokens_per_step(self):
        return self.training.batch_size * self.training.context

    @property
    def flops_per_step(self):
        """float, of products; what is computed again is counted again."""
        return flops_of_step(self.training)

    @property
    def tokens_per_second(self):
        return None if self.seconds_per_step is None else self.tokens_per_step / self.seconds_per_step

    @property
    def steps(self):
        return None if self.tokens is None else math.ceil(self.tokens / self.tokens_per_step)

    @property
    def seconds(self):
        """float, of the whole run; None where tokens or the speed are not known."""
        known = self.steps is not None and self.seconds_per_step is not None
        return self.steps * self.seconds_per_step if known else None

    @property
    def energy_kwh(self):
        """float, at the device's full power."""
        known = self.seconds is not None and self.device.watts
        return self.seconds * self.device.watts / 3.6e6 if known else None

    @property
    def usd(self):
        known = self.seconds is not None and self.device.usd_per_hour
        return self.seconds / 3600 * self.device.usd_per_hour if known else None

    @property
    def disk_bytes(self):
        """int, of the saved model; a checkpoint has the optimizer's numbers too, two for each that is trained."""
        return round(self.training.weight_bytes())

    @property
    def checkpoint_bytes(self):
        return self.disk_bytes + self.memory_bytes["optimizer"]

    @property
    def fits(self):
        """bool, whether it fits into what the device has; None where that is not known."""
        known = self.device.memory_bytes is not None
        return self.memory_bytes["peak"] <= self.device.memory_bytes if known else None


def plan(
    config,
    batch_size,
    context=None,
    *,
    loss=None,
    micro_batches=1,
    precision="float32",
    optimizer="adamw",
    adapter_rank=None,
    quantize=None,
    tokens=None,
    device="this",
    causal=True,
    evaluates=False,
):
    """What training a model takes: memory by part, time, energy, money and disk.

    Memory is counted from the options of each layer; an allocator's waste, and time, are what `calibrate` measured of
    this machine. Where it was not calibrated, time is None. No model is made.

    Args:
        config: TransformerConfig, of a model without an encoder.
        batch_size: int, rows in a batch.
        context: int, tokens in a row; None means `max_length`.
        loss: the loss, of which the `chunk_size` is read; None for logits of all tokens at once.
        micro_batches: int, as in `compile`.
        precision: str, a dtype policy, or "auto" for what is fastest on this machine.
        optimizer: "adamw" or "muon".
        adapter_rank: int or None: of low-rank adapters on all inner layers, which alone are trained then.
        quantize: str or None, of the kernels beside adapters, such as "nf4".
        tokens: int or None, to train on in all.
        device: str, "this" or one of `devices`, or a `Device`.
        causal: bool. False for a `MaskedLM`.
        evaluates: bool, whether `fit` is given validation data: their batches are not taken in micro-batches.

    Returns:
        A `Plan`.

    Raises:
        ValueError: if a value is not possible.

    Example:
        >>> config = kerasllm.models.TransformerConfig.preset("gpt2")
        >>> expected = kerasllm.planning.plan(config, batch_size=8, context=512)
        >>> expected.memory_bytes["weights"] == 4 * config.num_parameters()
        True
    """
    if quantize is not None and (quantize not in KERNEL_BYTES or adapter_rank is None):
        raise ValueError(
            f"`quantize` is one of {', '.join(KERNEL_BYTES)}, beside an `adapter_rank`, as quantised kernels are not "
            f"trained; got {quantize!r} and adapter_rank={adapter_rank}."
        )
    training = TrainingMemory(
        config,
        batch_size,
        context,
        causal=causal,
        precision=precision_of(precision)[0],
        loss_chunk=getattr(loss, "chunk_size", None),
        micro_batches=micro_batches,
        optimizer=optimizer,
        adapter_rank=adapter_rank,
        evaluates=evaluates,
        kernel_bytes=KERNEL_BYTES.get(quantize, 4),
    )
    return plan_of(training, device_of(device), tokens)


def overhead_of(training):
    """What a training process takes memory for beside tensors: amounts by the names of `Calibration`'s fields, which
    say how many bytes each of them is."""
    logits = 0 if training.loss_chunk else 4 * training.tokens_at_once * training.config.vocab_size
    return {
        "fixed_bytes": 1,
        "layer_bytes": training.config.num_layers,
        "slack": sum(training.by_part().values()),
        "logit_slack": logits,
        "long_bytes": int(is_long(training.context, training.context)),
    }


def plan_of(training, device, tokens=None):
    """The `Plan` of a `TrainingMemory` on a `Device`."""
    counted, calibration = training.by_part(), device.calibration
    counted["workspace"] += round(
        sum(getattr(calibration, name) * amount for name, amount in overhead_of(training).items())
    )
    memory = {**{name: counted[name] for name in PARTS}, "peak": sum(counted.values())}
    return Plan(training, device, memory, step_seconds(training, device), tokens)
