"""What training and generating will take, before any of it is begun: memory, time, energy and money.

`plan` counts from a config what a step holds and computes, and says with a `Calibration` of this machine, or with what
a data sheet says of another one, how long that takes. `calibrate` measures this machine once.

`fit_scaling_law` says of the losses of small runs what larger ones will come to; `ScalingStudy` chooses by it the model
for a budget. `kerasllm.selection.scale` trains the small runs.
"""

from kerasllm.planning.calibrating import calibrate
from kerasllm.planning.calibration import Calibration
from kerasllm.planning.device_table import Device, device_of, devices
from kerasllm.planning.generating import GenerationPlan, generation_plan
from kerasllm.planning.making_fit import Remedy, remedies
from kerasllm.planning.pictures import memory_figure, time_figure
from kerasllm.planning.scaling_law import ScalingFit, ScalingLaw, fit_scaling_law
from kerasllm.planning.scaling_pictures import scaling_figure
from kerasllm.planning.scaling_sizes import ModelShape, scaling_shapes
from kerasllm.planning.scaling_study import (
    MOST_PASSES,
    LearningRateRule,
    ScalingChoice,
    ScalingRun,
    ScalingStudy,
)
from kerasllm.planning.training_plan import Plan, plan

__all__ = [
    "MOST_PASSES",
    "Calibration",
    "Device",
    "GenerationPlan",
    "LearningRateRule",
    "ModelShape",
    "Plan",
    "Remedy",
    "ScalingChoice",
    "ScalingFit",
    "ScalingLaw",
    "ScalingRun",
    "ScalingStudy",
    "calibrate",
    "device_of",
    "devices",
    "fit_scaling_law",
    "generation_plan",
    "memory_figure",
    "plan",
    "remedies",
    "scaling_figure",
    "scaling_shapes",
    "time_figure",
]
