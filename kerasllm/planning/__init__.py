"""What training and generating will take, before any of it is begun: memory, time, energy and money.

`plan` counts from a config what a step holds and computes, and says with a `Calibration` of this machine, or with what
a data sheet says of another one, how long that takes. `calibrate` measures this machine once.
"""

from kerasllm.planning.calibrating import calibrate
from kerasllm.planning.calibration import Calibration
from kerasllm.planning.device_table import Device, device_of, devices
from kerasllm.planning.generating import GenerationPlan, generation_plan
from kerasllm.planning.making_fit import Remedy, remedies
from kerasllm.planning.pictures import memory_figure, time_figure
from kerasllm.planning.training_plan import Plan, plan

__all__ = [
    "Calibration",
    "Device",
    "GenerationPlan",
    "Plan",
    "Remedy",
    "calibrate",
    "device_of",
    "devices",
    "generation_plan",
    "memory_figure",
    "plan",
    "remedies",
    "time_figure",
]
