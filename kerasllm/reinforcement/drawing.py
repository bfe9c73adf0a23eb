"""Prompts to answers, drawn from a model as it is, and what they are worth.

Shapes: N answers, T time.
"""

import inspect
import math
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasllm import backend
from kerasllm.generation.decoding import Decoding
from kerasllm.generation.text_stream import TextStream
from kerasllm.models import RewardModel
from kerasllm.tokenizers.chat_template import turn_end_id


class Answer(NamedTuple):
    """What a model wrote.

    Attributes:
        ids: list of int, up to and with the end of the answer, where it has one.
        text: str, without.
    """

    ids: list
    text: str


class Prompt(NamedTuple):
    """Where an answer begins: ids (list of int), and those that end it."""

    ids: list
    end_ids: tuple


def encoded(prompt, tokenizer):
    """The `Prompt` of a text, which is gone on with, or of messages, which are answered."""
    if isinstance(prompt, str):
        return Prompt(tokenizer.encode(prompt), tuple(tokenizer.end_ids))
    turn_end = turn_end_id(tokenizer)
    end_ids = dict.fromkeys([*tokenizer.end_ids, *([] if turn_end is None else [turn_end])])
    return Prompt(tokenizer.encode_chat(prompt), tuple(end_ids))


def draw(model, tokenizer, prompts, max_new_tokens, seed, greedy=False):
    """An `Answer` to each `Prompt`, all in one batch; equal prompts are read once.

    They are drawn by the model's own probabilities, so that they are what its gradient is an average over.
    """
    end_ids = sorted({i for prompt in prompts for i in prompt.end_ids})
    inputs = [{"token_ids": prompt.ids} for prompt in prompts]
    sampler = "greedy" if greedy else "random"
    vocabulary = tokenizer.vocab_size
    decoding = Decoding(
        model, inputs, max_new_tokens, end_ids=end_ids, vocab_size=vocabulary, sampler=sampler, seed=seed
    )
    decoding.run(decoding.max_new_tokens)
    rows = zip(prompts, decoding.new_ids(), decoding.drawn_ids(), strict=True)
    return [Answer(drawn, TextStream(tokenizer, prompt.ids, ()).read(ids, True)) for prompt, ids, drawn in rows]


class Rewards:
    """Rewards by their names, whose sum an answer is worth.

    Args:
        given: a function (prompt, answer) or (prompt, answer, task) -> float, a `RewardModel` that reads the same ids
            as the model, or a list of those.
    """

    def __init__(self, given):
        given = list(given) if isinstance(given, list | tuple) else [given]
        if not given:
            raise ValueError("There is no reward: give a function (prompt, answer) -> float, or a RewardModel.")
        self._scorers = {}
        for reward in given:
            name = getattr(reward, "__name__", None) or getattr(reward, "name", type(reward).__name__)
            while name in self._scorers:
                name += "_"
            self._scorers[name] = _of_model(reward) if isinstance(reward, RewardModel) else _of_function(reward, name)

    def __call__(self, tasks, prompts, answers):
        """float32 (N,) by the names of rewards, of so many tasks (dict), their `Prompt`s and `Answer`s."""
        return {name: scorer(tasks, prompts, answers) for name, scorer in self._scorers.items()}


def _of_function(function, name):
    if not callable(function):
        raise TypeError(f"A reward is a function (prompt, answer) -> float or a RewardModel, got {function!r}.")
    takes_task = _takes_three(function)
    is_ready = (getattr(function, "__module__", None) or "").startswith("kerasllm.")  # which says itself what is wrong

    def value_of(task, answer):
        try:
            value = function(task["prompt"], answer.text, *([task] if takes_task else []))
        except Exception as error:
            if isinstance(error, ValueError) and is_ready:
                raise
            raise ValueError(f"The reward {name} failed for {answer.text!r:.80}{_said(error)}") from error
        try:
            value = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The reward {name} gives numbers, and gave {value!r:.80} for {answer.text!r:.80}."
            ) from error
        if not math.isfinite(value):
            raise ValueError(f"The reward {name} must give finite numbers, and gave {value} for {answer.text!r:.80}.")
        return value

    def scores(tasks, prompts, answers):
        return np.array([value_of(task, answer) for task, answer in zip(tasks, answers, strict=True)], "float32")

    return scores


def _said(error):
    """Where in the reward it was raised, and what it says."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    place = f" ({Path(frames[0].filename).name}, line {frames[0].lineno})" if frames else ""
    return f"{place}: {type(error).__name__}: {error}"


def _takes_three(function):
    try:
        inspect.signature(function).bind("prompt", "answer", {})
    except TypeError:
        return False
    except ValueError:  # of a built-in one, which says nothing
        return False
    return True


def _of_model(model):
    compute = backend.compile_function(lambda inputs: model(inputs, training=False), model.variables, xla=False)

    def scores(tasks, prompts, answers):
        texts = [[*prompt.ids, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)]
        width = max(map(len, texts))
        ids, documents = np.zeros((2, len(texts), width), "int32")
        for row, text in enumerate(texts):
            ids[row, : len(text)], documents[row, : len(text)] = text, 1
        return np.asarray(compute({"token_ids": ids, "document_ids": documents}))[:, 0].astype("float32")

    return scores
