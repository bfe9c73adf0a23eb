"""Batches of answers that a model draws while it trains, for `losses.GRPO`.

Shapes: B prompts in a batch, G answers to each, T time.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasllm import backend
from kerasllm.data.preference_batches import PreferenceTexts
from kerasllm.data.steps import Batches, check_least, dataset_of
from kerasllm.data.text_batches import batches_by_length
from kerasllm.models.shapes import context_length
from kerasllm.reinforcement.drawing import Rewards, draw, encoded
from kerasllm.reinforcement.log import AnswerLog
from kerasllm.reinforcement.questions import checked_task
from kerasllm.tokenizers import Tokenizer, as_tokenizer


def group_dataset(
    model: keras.Model,
    tokenizer: Tokenizer,
    tasks: Iterable[Mapping[str, Any]],
    reward: Callable[..., float] | keras.Model | Sequence[Any],
    batch_size: int = 8,
    group_size: int = 8,
    max_new_tokens: int = 128,
    seed: int = 0,
    epochs: int = 1,
    start_step: int = 0,
    *,
    reference: keras.Model | None = None,
    log: str | os.PathLike | None = None,
    greedy: bool = False,
    shuffle: bool = True,
) -> tf.data.Dataset:
    """Batches of answers with their rewards, each drawn from the model when a step asks for it.

    `model.fit` on it is learning by rewards: a step draws several answers to each of some prompts in one batch of the
    compiled loop, asks what they are worth, and makes the better ones likelier. What is drawn is a function of the
    seed, the step and the weights, so a run that goes on from a checkpoint goes on as if nothing had happened.

    Args:
        model: the `CausalLM` that trains. Answers are drawn by its own probabilities, at a temperature of 1.
        tokenizer: its `Tokenizer`.
        tasks: iterable of dicts with a "prompt", a text that is gone on with or a list of messages that the chat
            template writes, and what else the reward reads. Prompts that leave no space for an answer in the model's
            context are left out, with a warning.
        reward: a function (prompt, answer) -> float, or (prompt, answer, task) -> float, with the task's dict; a
            `RewardModel` of the same tokenizer; or a list of those, whose sum an answer is worth.
        batch_size: int B, prompts in a step.
        group_size: int G, answers to each.
        max_new_tokens: int, the most tokens of an answer. One that does not end by then is learned without an end.
        seed: int, decides the order of prompts and, with the step, what is drawn.
        epochs, start_step, shuffle: see `kerasllm.data.classification_dataset`; prompts of like length share a batch.
        reference: a `CausalLM` that the model is to stay near to, for a loss with a `beta`. A model with adapters is
            its own, without them.
        log: path of a .jsonl file, which gets a line for each answer: step (from 1), prompt, answer, reward, advantage,
            and where there are several rewards each of them.
        greedy: bool. The likeliest answer, for validation with group_size=1.

    Returns:
        A `tf.data.Dataset` of known length: ({"token_ids": int32 (B, G, T), "document_ids": int32 (B, G, T), 0 where
        there is padding}, {"labels": int32 (B, G, T), the token that follows, or -100; "rewards": float32 (B, G); and
        with a reference "reference_log_probs": float32 (B, G, T)}, sample_weight float32 (B, G, T), 1 on the tokens of
        answers).

    Raises:
        TypeError: for a reward that is no function and no model, or gives no number.
        ValueError: for sizes below 1, a task without a prompt, no prompt that is short enough, or another backend than
            TensorFlow, where `fit` keeps the weights to itself until an epoch ends.

    Example:

    >>> tokenizer = Tokenizer.train(["0123456789+="], kind="char", progress=False)
    >>> config = kerasllm.models.TransformerConfig(vocab_size=20, num_layers=1, d_model=8, num_heads=2, dff=8)
    >>> model = kerasllm.models.CausalLM(config)
    >>> tasks = [{"prompt": "1+1=", "answer": "2"}]
    >>> dataset = group_dataset(model, tokenizer, tasks, kerasllm.reinforcement.exact, max_new_tokens=2)
    >>> inputs, targets, weight = next(iter(dataset))
    >>> targets["rewards"].shape
    TensorShape([1, 8])

    Reference: Shao et al. 2024, https://arxiv.org/abs/2402.03300
    """
    check_least(1, batch_size=batch_size, group_size=group_size, max_new_tokens=max_new_tokens, epochs=epochs)
    check_least(0, seed=seed, start_step=start_step)
    tasks = [checked_task(task, f"tasks[{i}]") for i, task in enumerate(tasks)]
    longest = context_length(model)
    texts = Questions(tasks, as_tokenizer(tokenizer), max_new_tokens, longest)
    options = {"seed": seed, "reference": reference, "log": log, "greedy": greedy, "shuffle": shuffle}
    return groups_of(lambda: model, texts, Rewards(reward), batch_size, group_size, epochs, start_step, **options)


class Questions:
    """Tasks with the ids of their prompts, those that leave space for an answer.

    Args:
        tasks: list of dicts, from `checked_task`.
        tokenizer: Tokenizer.
        max_new_tokens: int, of an answer.
        longest: int or None, the most tokens that a prompt and its answer may have.
    """

    def __init__(self, tasks, tokenizer, max_new_tokens, longest):
        if not backend.IS_TENSORFLOW:
            raise ValueError(
                "Answers are drawn while a model trains, which is made for TensorFlow's `fit` (that of JAX keeps the "
                f"weights to itself until an epoch ends): set KERAS_BACKEND=tensorflow, got {keras.backend.backend()}."
            )
        prompts = [encoded(task["prompt"], tokenizer) for task in tasks]
        most = float("inf") if longest is None else longest - max_new_tokens
        self.numbers = [number for number, prompt in enumerate(prompts) if 0 < len(prompt.ids) <= most]
        left_out = len(tasks) - len(self.numbers)
        what = (
            f"{left_out} of {len(tasks)} prompts leave no space for an answer of max_new_tokens={max_new_tokens} in "
            f"the {longest} tokens of a text"
        )
        if not self.numbers:
            raise ValueError("There are no tasks." if not tasks else f"There is nothing to learn from: {what}.")
        if left_out:
            warnings.warn(f"{what}, and are left out.", stacklevel=3)
        self.tasks, self.prompts = ([of[i] for i in self.numbers] for of in (tasks, prompts))
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens


def groups_of(
    policy,
    questions,
    rewards,
    batch_size,
    group_size,
    epochs=1,
    start_step=0,
    *,
    seed=0,
    reference=None,
    log=None,
    greedy=False,
    shuffle=True,
):
    """What `group_dataset` makes of `Questions` and `Rewards`; `policy` is a function () -> model."""
    steps_per_epoch = -(-len(questions.prompts) // batch_size)
    lengths = np.array([len(prompt.ids) for prompt in questions.prompts])
    batches_in = functools.lru_cache(maxsize=1)(
        functools.partial(batches_by_length, lengths, batch_size, seed, shuffle)
    )
    tokenizer, most = questions.tokenizer, questions.max_new_tokens
    answers_log = None if log is None else AnswerLog(log)
    of_reference = reference and backend.compile_function(reference.log_probabilities, reference.variables, xla=False)

    def rows_of(step):
        epoch, place = divmod(int(step), steps_per_epoch)
        return batches_in(epoch)[place]

    def read(step):
        numbers = np.repeat(rows_of(step), group_size)
        tasks, prompts = ([of[number] for number in numbers] for of in (questions.tasks, questions.prompts))
        answers = draw(policy(), tokenizer, prompts, most, _seed_of(seed, int(step)), greedy)
        found = rewards(tasks, prompts, answers)
        total = sum(found.values())
        ids, labels, is_text, learned, _ = _as_texts(prompts, answers).padded(
            np.arange(len(answers)), tokenizer.pad_id or 0
        )
        arrays = [ids, is_text.astype("int32"), labels, learned]
        if reference is not None:
            inputs = {"token_ids": ids, "document_ids": arrays[1]}
            arrays.append(np.asarray(of_reference(inputs, np.maximum(labels, 0), learned)))
        if answers_log is not None:
            answers_log.write(int(step), _lines(tasks, answers, found, total, group_size))
        return *(array.reshape(-1, group_size, array.shape[1]) for array in arrays), total.reshape(-1, group_size)

    def element(ids, documents, labels, learned, *others):
        nested = [tf.ensure_shape(tensor, (None, group_size, None)) for tensor in (ids, documents, labels, learned)]
        *log_probs, total = others
        targets = {"labels": nested[2], "rewards": tf.ensure_shape(total, (None, group_size))}
        if log_probs:
            targets["reference_log_probs"] = tf.ensure_shape(log_probs[0], (None, group_size, None))
        return {"token_ids": nested[0], "document_ids": nested[1]}, targets, nested[3]

    def documents_at(step):
        return sorted(questions.numbers[row] for row in rows_of(step))

    types = [tf.int32, tf.int32, tf.int32, tf.float32, *([tf.float32] if reference is not None else []), tf.float32]
    batches = Batches(steps_per_epoch, read, types, element, documents_at)
    dataset = dataset_of(batches, epochs, start_step, ahead=0)  # not before the step before is done
    dataset.tokens_per_step = float(group_size * batch_size * (lengths.mean() + most))
    return dataset


def _as_texts(prompts, answers):
    pairs = list(zip(prompts, answers, strict=True))
    tokens = np.concatenate([[*prompt.ids, *answer.ids] for prompt, answer in pairs]).astype("int32")
    learned = np.concatenate([np.arange(len(p.ids) + len(a.ids)) >= len(p.ids) for p, a in pairs])
    lengths = np.array([len(prompt.ids) + len(answer.ids) for prompt, answer in pairs])
    return PreferenceTexts(tokens, learned, lengths, None, np.arange(len(pairs)))


def _seed_of(seed, step):
    return int(np.random.default_rng([seed, step]).integers(2**31))


def _lines(tasks, answers, found, total, group_size):
    """Lines of the log, dicts."""
    means = np.repeat(total.reshape(-1, group_size).mean(axis=1), group_size)
    for row, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        line = {"prompt": task["prompt"], "answer": answer.text, "reward": round(float(total[row]), 6)}
        line["advantage"] = round(float(total[row] - means[row]), 6)
        if len(found) > 1:
            line["rewards"] = {name: round(float(values[row]), 6) for name, values in found.items()}
        yield line
