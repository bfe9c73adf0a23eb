"""`--task prefer`: a model that answers learns which of two answers is preferred."""

import functools

import kerasllm
from kerasllm.tasks.task import NOT_OF_CHATS, OF_PREFERENCES
from kerasllm.tasks.tuning import TuneTask

_LOSSES = {"dpo": "DPO", "ipo": "DPO", "orpo": "ORPO", "simpo": "SimPO", "kto": "KTO"}
_FIGURES = (
    ("reward_accuracy", "preferred answers that gained more", "{:.2%}"),
    ("reward_margin", "margin of implied rewards", "{:,.4f}"),
    ("chosen_before", "log-probability of the preferred, nats", "{:,.2f}"),
    ("chosen_change", "and its change", "{:+,.2f}"),
    ("chosen_log_prob", "log-probability of their tokens", "{:,.4f}"),
    ("kl", "divergence per token, nats", "{:,.4f}"),
)


class PreferTask(TuneTask):
    """Pairs of answers, or single ones with labels, of which a model learns what is preferred.

    The reference is the model as it was, whose log-probabilities are computed once, before training.
    """

    name = "prefer"
    is_private = False
    items = "pairs"
    learns = "learns which answers are preferred, from pairs of them, or from single ones with labels"
    unused_settings = (
        *("preset", "tokenizer", "vocab_size", "field", "clean", "deduplicate", "batch_tokens"),
        *("packed", "label_smoothing"),
        *(name for name in NOT_OF_CHATS if name not in OF_PREFERENCES),
    )

    @staticmethod
    def defaults(given):
        usual = {name: value for name, value in TuneTask.defaults(given).items() if name != "packed"}
        is_adapted = usual["adapter"] != "none"
        length = {} if given.get("steps") else {"epochs": 1}
        return {**usual, "loss": "dpo", "learning_rate": 2e-5 if is_adapted else 1e-6, "batch_size": 8, **length}

    def loss(self):
        settings = self.settings
        given = {} if settings.beta is None else {"beta": settings.beta}
        if settings.loss == "ipo":
            given["variant"] = "ipo"
        return getattr(kerasllm.losses, _LOSSES[settings.loss])(**given, chunk_size=settings.loss_chunk)

    def _records(self, sources):
        """Pairs, or the single answers that `kto` learns from, which it also makes of pairs."""
        records = list(kerasllm.data.read_preferences(sources))
        if self.settings.loss == "kto":
            return [single for record in records for single in _singles(record)]
        if any("label" in record for record in records):
            raise ValueError(
                f"loss={self.settings.loss} learns from pairs, with prompt, chosen and rejected, and "
                f"{', '.join(sources)} has single answers with labels: --loss kto learns from those."
            )
        return records

    def datasets(self, config, tokenizer, folder):
        from kerasllm.data.preference_batches import batches_of, tokenized, with_reference

        self.measure()
        if self._new_ids:
            raise ValueError(
                f"{self.settings.base} has not learned the tokens of that chat format: tune it on conversations first."
            )
        kerasllm.report.stage("Computing what the model says of the answers before it learns")
        window, (base, _) = self._window_of(config), self._base
        training, held_out = (
            with_reference(tokenized(records, tokenizer, window, {}), base) for records in self._chats.values()
        )
        self._held_out = batches_of(held_out, tokenizer, self.settings.batch_size, shuffle=False)
        self._held_out_tokens = int(held_out.learned.sum())
        of_chosen = slice(None, None, 2) if held_out.desired is None else 2 * held_out.desired.nonzero()[0]
        self._chosen_before = float(held_out.summed()[of_chosen].mean())
        batches = functools.partial(batches_of, training, tokenizer, self.settings.batch_size, self.settings.seed)
        return batches, self._held_out

    def tokens_per_step(self, config, training):
        """No FLOPs: texts are of many lengths."""
        return training.tokens_per_step, None

    def _figures(self, model):
        return model.evaluate(self._held_out, verbose=0, return_dict=True)

    def score(self, model, tokenizer):
        return {**super().score(model, tokenizer), "chosen_before": self._chosen_before}

    @staticmethod
    def rows(figures):
        yield "loss before", f"{figures['loss_before']:,.4f}"
        yield "and after", f"{figures['loss']:,.4f}"
        for name, label, form in _FIGURES:
            if figures.get(name) is not None:
                yield label, form.format(figures[name])
        yield "measured on", f"{figures['tokens']:,} tokens of answers in {figures['pairs']:,} rows"
        if figures["questions"]:
            yield "questions answered before and after", f"{figures['questions']:,}, in answers.md"


def _singles(record):
    if "label" in record:
        return [record]
    answers = {"chosen": True, "rejected": False}
    return [{"prompt": record["prompt"], "completion": record[name], "label": label} for name, label in answers.items()]
