"""`--task dialogue`: a model learns to write replies and to judge them, and is measured by both."""

import dataclasses
import functools

import kerasllm
from kerasllm.tasks.tuning import TuneTask

_MEASURES = {
    "sensibleness": "replies that make sense",
    "specificity": "and are specific",
    "interestingness": "and are interesting",
    "quality": "mean of these three",
    "safety": "replies that are safe",
    "groundedness": "of those with claims, supported by a source",
    "informativeness": "of all, with claims that a source supports",
    "citation_rate": "of those with claims, naming a source",
    "fallbacks": "the fallback in their place",
}


class DialogueTask(TuneTask):
    """Dialogues, of which a causal model learns the replies, and what raters say of replies."""

    name = "dialogue"
    is_private = False
    learns = "learns to write replies and to judge them, from dialogues that are rated or not"
    unused_settings = (*(name for name in TuneTask.unused_settings if name != "judge"), "packed")
    has_stride = False

    @staticmethod
    def defaults(given):
        return {name: value for name, value in TuneTask.defaults(given).items() if name != "packed"}

    def datasets(self, config, tokenizer, folder):
        from kerasllm.data.chat_windows import batches_of
        from kerasllm.data.dialogues import dialogue_stream

        self.measure()
        window, settings = self._window_of(config), self.settings
        written = {part: None for part in self._chats}
        if settings.judge:
            written = self._kept_by_judge()
        training, held_out = (
            dialogue_stream(chats, tokenizer, window, settings.seed, written[part])
            for part, chats in self._chats.items()
        )
        self._held_out = batches_of(held_out, tokenizer, window, 1, shuffle=False)
        self._held_out_tokens = int((held_out.learned > 0).sum())
        return functools.partial(
            batches_of, training, tokenizer, window, settings.batch_size, settings.seed
        ), self._held_out

    def _kept_by_judge(self):
        """Of each part, the dialogues whose replies a judge finds good, which the writer learns from."""
        from kerasllm import report

        judge = kerasllm.load(self.settings.judge)
        written = {part: kerasllm.dialogue.keep_good(*judge, chats) for part, chats in self._chats.items()}
        for part, chats in self._chats.items():
            before, after = map(_num_replies, (chats, written[part]))
            report.stage(f"{self.settings.judge} finds {after:,} of {before:,} replies good ({part})")
        return written

    def score(self, model, tokenizer):
        scores = kerasllm.dialogue.judge_scores(model, tokenizer, self._chats["valid"])
        aucs = {f"{name}_auc": found["auc"] for name, found in scores.items()}
        return {**super().score(model, tokenizer), **aucs, "rated": sum(f["good"] + f["bad"] for f in scores.values())}

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns, judge=None, documents=None, **options):
        """Has a model reply in dialogues.

        Args:
            model, tokenizer, sources, columns: see `Task.evaluate`.
            judge: str or None, what to load for what rates the replies.
            documents: str or None, a folder that the model may search.
            **options: candidates, min_safety, seed, see `kerasllm.dialogue.dialogue_scores`.
        """
        dialogue = kerasllm.dialogue
        tools = [] if documents is None else [dialogue.calculator, dialogue.documents(documents)]
        chats = kerasllm.data.read_chats(sources)
        options |= {"judge": judge and kerasllm.load(judge), "tools": tools}
        return dataclasses.asdict(dialogue.dialogue_scores(model, tokenizer, chats, **options))

    @staticmethod
    def rows(figures):
        if "sensibleness" in figures:
            yield from ((what, f"{figures[name]:.1%}") for name, what in _MEASURES.items() if figures[name] is not None)
            yield "measured on", f"{figures['replies']:,} replies, by a judge"
            return
        yield from TuneTask.rows(figures)
        for name, value in figures.items():
            if name.endswith("_auc"):
                yield f"good rated higher than bad, {name.removesuffix('_auc')}", f"{value:.1%}"
        yield "measured on", f"{figures['rated']:,} ratings"


def _num_replies(chats):
    return sum(message["role"] == "assistant" for chat in chats for message in chat)
