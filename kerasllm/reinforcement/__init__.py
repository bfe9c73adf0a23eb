"""Learning from rewards: a model answers, a function says what each answer is worth, and better ones become likelier.

groups.py      `group_dataset`, the answers to some prompts in each batch, drawn from the model as it is then
drawing.py     prompts to answers and their rewards
rewards.py     ready rewards, and those in files of one's own
gym.py         tasks of reasoning-gym, and its judgement
questions.py   prompts and what rewards know of them, from files
log.py         every answer with its reward, in a file

The loss is `kerasllm.losses.GRPO`.
"""

from kerasllm.reinforcement.groups import group_dataset
from kerasllm.reinforcement.gym import gym_score, gym_tasks
from kerasllm.reinforcement.questions import read_tasks
from kerasllm.reinforcement.rewards import exact, json_schema, length, load_reward, regex

__all__ = [
    "exact",
    "group_dataset",
    "gym_score",
    "gym_tasks",
    "json_schema",
    "length",
    "load_reward",
    "read_tasks",
    "regex",
]


def __dir__():  # what completion shows
    return __all__
