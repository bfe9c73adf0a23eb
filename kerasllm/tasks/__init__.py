"""What the package must know of each kind of model, one file a task; `TASKS` is the registry.

`task.py` says what a task is made of. To add one, write its file and put its class into `TASKS`: the commands train,
evaluate, convert and export, run folders and the functions that refuse other models then know it.

Every room may ask here, so nothing of the other rooms is imported before a task is used, and nothing heavy at all.
"""

from kerasllm.tasks.captioning import CaptionTask
from kerasllm.tasks.causal import CausalTask
from kerasllm.tasks.classification import ClassificationTask
from kerasllm.tasks.contrasting import ContrastTask
from kerasllm.tasks.dialogue import DialogueTask
from kerasllm.tasks.embedding import EmbeddingTask
from kerasllm.tasks.masked import MaskedTask
from kerasllm.tasks.preferring import PreferTask
from kerasllm.tasks.rewarding import RewardTask
from kerasllm.tasks.task import Task
from kerasllm.tasks.translation import TranslationTask
from kerasllm.tasks.tuning import TuneTask

__all__ = ["TASKS", "Task", "model_classes", "other_task", "task_of"]


def __dir__():  # what completion shows
    return __all__


# Of tasks that share a class of models, the first is what such a model is taken for when it is used.
_ALL = (
    *(CausalTask, MaskedTask, TranslationTask, TuneTask, PreferTask, RewardTask, DialogueTask),
    *(ClassificationTask, EmbeddingTask, CaptionTask, ContrastTask),
)
TASKS = {task.name: task for task in _ALL}


def task_of(model):
    """The task that a model is for, a subclass of `Task`; None for a Keras model that is of no task."""
    by_class = {task.model_class(): task for task in reversed(TASKS.values())}
    return next((by_class[kind] for kind in type(model).__mro__ if kind in by_class), None)


def model_classes():
    """The classes that a run folder can hold, by the names that its `config.json` gives them."""
    from kerasllm import models

    trained = (task.model_class() for task in TASKS.values())
    by_python_alone = (models.RewardModel, models.TokenClassifier, models.ImageClassifier)
    return {kind.__name__: kind for kind in (*trained, *by_python_alone)}


def other_task(model, **uses):
    """The task of a model that is used or scored in another way, such as function="generate"; None if it is not."""
    task = task_of(model)
    is_other = task is not None and any(getattr(task, name) != use for name, use in uses.items())
    return task if is_other else None
