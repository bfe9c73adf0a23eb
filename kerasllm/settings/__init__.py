"""What a training run can be told, in flags, YAML files and Python.

train_settings.py   `TrainSettings`, a dataclass whose fields are the flags, the YAML keys and the checks
general_settings.py those of its fields that most tasks have
names.py            other names of settings, and those of a model that have flags of their own
values.py           what a setting takes
reading.py          settings from YAML files, fields of the model from the command line
"""

from kerasllm.settings.reading import read_yaml
from kerasllm.settings.train_settings import TrainSettings

__all__ = ["TrainSettings", "read_yaml"]


def __dir__():  # what completion shows
    return __all__


# What a run folder holds besides the model.
RECORD, SETTINGS, CHECKPOINTS = "run.json", "settings.yaml", "checkpoints"
# What the record says of the training itself, beside the scores of its task.
FIGURES = ("steps", "trained_tokens", "seconds", "tokens_per_second")
