"""Tasks that need no download, and what a model does in them.

`task_scores` sets them: cloze passages of any text, minimal pairs, arithmetic, copying, induction, a needle in a
haystack and instructions that can be checked, and files in the formats of BLiMP and IFEval. It gives `TaskScores`, with
standard errors, by group too. `compare_scores` compares two models item by item, `plot_tasks` and `plot_steps` draw.
"""

from kerasllm.evaluation.tasks.plots import plot_steps, plot_tasks
from kerasllm.evaluation.tasks.scores import Difference, Measured, TaskScores, compare_scores
from kerasllm.evaluation.tasks.scoring import TASKS, is_offline, task_scores

__all__ = [
    "TASKS",
    "Difference",
    "Measured",
    "TaskScores",
    "compare_scores",
    "is_offline",
    "plot_steps",
    "plot_tasks",
    "task_scores",
]
