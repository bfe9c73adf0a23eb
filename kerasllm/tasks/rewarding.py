"""`--task reward`: a model that answers learns by what its answers are worth."""

import functools
import shlex
from pathlib import Path

import kerasllm
from kerasllm.tasks.task import NOT_OF_CHATS, OF_REWARDS
from kerasllm.tasks.tuning import BEFORE, TuneTask

ANSWERS = "answers.jsonl"  # all that were drawn


class RewardTask(TuneTask):
    """Prompts, to which a causal model draws answers while it trains; a function says what they are worth.

    A prompt that is a text is a user's message where the tokenizer has a chat template, and else text to go on with.
    """

    name = "reward"
    is_private = False
    items = "tasks"
    learns = "learns by what its answers are worth, of which a function or a rule judges"
    unused_settings = (
        *("preset", "tokenizer", "vocab_size", "field", "clean", "deduplicate", "batch_tokens", "test"),
        *("packed", "label_smoothing"),
        *(name for name in NOT_OF_CHATS if name not in (*OF_REWARDS, "beta")),
    )
    loss_deviations = 1e6  # It is about 0 throughout, and says nothing.

    def __init__(self, settings):
        super().__init__(settings)
        self._policy = None

    @staticmethod
    def defaults(given):
        usual = {name: value for name, value in TuneTask.defaults(given).items() if name != "packed"}
        is_adapted = usual["adapter"] != "none"
        length = {} if given.get("steps") else {"epochs": 1}
        return {**usual, "learning_rate": 2e-5 if is_adapted else 1e-6, "batch_size": 8, **length}

    def config(self):
        from kerasllm.reinforcement.drawing import Rewards

        settings = self.settings
        if not settings.reward:
            raise ValueError("Nothing says what an answer is worth: give --reward, such as exact or FILE.py:FUNCTION.")
        self._rewards = Rewards([kerasllm.reinforcement.load_reward(name) for name in settings.reward])
        if settings.beta and settings.adapter == "none":
            raise ValueError(
                f"beta={settings.beta} keeps a model near to what it was, which with adapters is the model without "
                "them: leave out --adapter none, or beta."
            )
        return super().config()

    def tokenizer(self):
        _, tokenizer = self._base
        if self.settings.chat_format:
            tokenizer = kerasllm.tokenizers.with_chat_format(tokenizer, self.settings.chat_format)
        return tokenizer

    def model(self, config, dtype):
        self._policy = super().model(config, dtype)
        return self._policy

    def loss(self):
        return kerasllm.losses.GRPO(self.settings.beta or 0.0, chunk_size=self.settings.loss_chunk)

    def _records(self, sources):
        return list(kerasllm.reinforcement.read_tasks(sources))

    def datasets(self, config, tokenizer, folder):
        from kerasllm.reinforcement.groups import Questions, groups_of

        self.measure()
        settings = self.settings
        training, held_out = (
            Questions(
                [_asked(task, tokenizer) for task in tasks], tokenizer, settings.answer_tokens, self._window_of(config)
            )
            for tasks in self._chats.values()
        )
        policy, common = (lambda: self._policy), (self._rewards, settings.batch_size)
        # One answer to each, the likeliest: what is measured is what a user gets.
        self._held_out = groups_of(policy, held_out, *common, 1, greedy=True, shuffle=False)
        log = Path(settings.out) / ANSWERS
        batches = functools.partial(
            groups_of, policy, training, *common, settings.group_size, seed=settings.seed, log=log
        )
        return batches, self._held_out

    def tokens_per_step(self, config, training):
        """No FLOPs: answers are of many lengths."""
        return training.tokens_per_step, None

    def _figures(self, model):
        found = model.evaluate(self._held_out, verbose=0, return_dict=True)
        return {name: found[name] for name in ("loss", "reward", "answer_tokens", "kl") if name in found}

    def begin(self, model, tokenizer):
        from kerasllm import report
        from kerasllm.files import write_json

        report.stage("Measuring what the model does before it is tuned")
        write_json(Path(self.settings.out) / BEFORE, self._figures(model))

    def score(self, model, tokenizer):
        from kerasllm.files import read_json

        before = read_json(Path(self.settings.out) / BEFORE)
        asked = _asked(self._chats["valid"][0], tokenizer)["prompt"]
        return {
            **self._figures(model),
            "reward_before": before["reward"],
            "tasks": len(self._chats["valid"]),
            "prompt": asked if isinstance(asked, str) else None,  # of a model that does not chat
        }

    @classmethod
    def command_for(cls, results, folder):
        if results["prompt"] is None:
            return super().command_for(results, folder)
        return f"generate --model {folder} --prompt {shlex.quote(results['prompt'])}"

    @staticmethod
    def rows(figures):
        yield "reward of answers before", f"{figures['reward_before']:,.4f}"
        yield "and after", f"{figures['reward']:,.4f}"
        yield "tokens of an answer", f"{figures['answer_tokens']:,.1f}"
        if "kl" in figures:
            yield "divergence from the model before, nats per token", f"{figures['kl']:,.4f}"
        yield "measured on", f"the likeliest answers to {figures['tasks']:,} tasks; what was drawn is in {ANSWERS}"


def _asked(task, tokenizer):
    if isinstance(task["prompt"], str) and tokenizer.chat_template is not None:
        return {**task, "prompt": [{"role": "user", "content": task["prompt"]}]}
    return task
