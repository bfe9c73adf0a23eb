"""`--task tune`, which `kerasllm tune` is: a model learns to answer as conversations do."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import kerasllm
from kerasllm.tasks.adapting import adapt, adapter_defaults, is_adapted, load_base
from kerasllm.tasks.causal import CausalTask
from kerasllm.tasks.task import NOT_OF_CHATS

DEFAULT_WINDOW = 1024  # tokens, where the model takes as many
VALIDATION_SHARE = 0.1
ANSWER_TOKENS = 200
# What is there before training, and the page that shows it beside what comes of it.
BEFORE, PAGE = "before.json", "answers.md"


class TuneTask(CausalTask):
    """Conversations, of which a causal model that has learned a language before learns the answers."""

    name = "tune"
    learns = "learns to answer as conversations do, from a model that has learned a language"
    command = "chat --model {}"
    unused_settings = (
        *("preset", "tokenizer", "vocab_size", "field", "clean", "deduplicate", "batch_tokens"),
        *NOT_OF_CHATS,
    )
    planned_as = None
    tunes = True
    items = "conversations"  # what it learns from
    validation_share = 1.0  # of windows one by one
    fields = ("max_length", "dropout", "attention_dropout", "remat")  # those of `model` that mean something

    def __init__(self, settings):
        super().__init__(settings)
        self._base = None  # the pair (model, tokenizer) to begin with
        self._chats = None

    @staticmethod
    def defaults(given):
        adapter = given.get("adapter") or "lora"
        return {
            "adapter": adapter,
            "learning_rate": 2e-5 if adapter == "none" else 2e-4,  # ten times, as is usual
            "weight_decay": 0.0,
            "packed": True,
            "batch_size": 4,
            "loss_chunk": 128,
            **({} if given.get("steps") else {"epochs": 3}),
            **adapter_defaults(adapter),
        }

    def config(self):
        settings = self.settings
        if settings.base is None:
            raise ValueError(
                "Nothing to tune: give --model a run folder, or a folder or repository (owner/name) in Hugging Face's "
                "format."
            )
        is_adapted(settings)
        for name in settings.model.keys() - {*self.fields}:
            raise ValueError(f"model.{name} does nothing for the task {self.name}: {settings.base} says what it is.")
        self._load(kerasllm.training.precision(settings.precision)[0])
        config = self._base[0].config
        if self._window_of(config) > config.max_length:
            raise ValueError(
                f"max_length={self._window_of(config)} is more than the {config.max_length} tokens that "
                f"{settings.base} takes."
            )
        return dataclasses.replace(config, **self._changed_fields)

    def _load(self, dtype):
        model, tokenizer = load_base(self.settings, dtype)
        if not isinstance(model, kerasllm.models.CausalLM):
            raise TypeError(f"A causal model is tuned, and {self.settings.base} holds a {type(model).__name__}.")
        self._base = model, tokenizer

    def tokenizer(self):
        _, tokenizer = self._base
        if self.settings.chat_format:
            tokenizer = kerasllm.tokenizers.with_chat_format(tokenizer, self.settings.chat_format)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"The tokenizer in {self.settings.base} has no chat template, so its model has not learned to chat: "
                "--chat-format chatml gives it one."
            )
        return tokenizer

    def fitted(self, config, tokenizer):
        self._new_ids = range(self._base[1].vocab_size, tokenizer.vocab_size)
        size = tokenizer.vocab_size if self._new_ids else 0
        return dataclasses.replace(config, vocab_size=max(config.vocab_size, size))

    def model(self, config, dtype):
        from kerasllm import report
        from kerasllm.models.growing import with_fields

        if self._base[0].dtype_policy.name != dtype:
            self._load(dtype)
        model, self._base = self._base[0], None
        if self._new_ids:
            model = kerasllm.models.with_new_tokens(model, self._new_ids)
        others = {name: value for name, value in self._changed_fields.items() if name != "remat"}
        if others:
            model = with_fields(model, **others)
        model.remat = self._changed_fields["remat"]  # in place: a model of its own would be a second one in memory
        if is_adapted(self.settings):
            if self._new_ids:
                report.stage(f"Training the rows of {len(self._new_ids)} new tokens too")
            adapt(model, self.settings, train_tokens=self._new_ids)
        return model

    @property
    def _changed_fields(self):
        given = {name: value for name, value in self.settings.model.items() if name != "max_length"}
        return {"remat": "block", **given}  # or activations take most of the memory, as the base has no gradients

    def _window_of(self, config):
        return self.settings.model.get("max_length") or min(DEFAULT_WINDOW, config.max_length)

    def measure(self):
        if self._chats is None:
            self._chats = self._read()
        return {part: _measured(chats, self.items) for part, chats in self._chats.items()}

    def _read(self):
        settings = self.settings
        chats = self._records(settings.data)
        if settings.valid:
            training, held_out = chats, self._records(settings.valid)
        else:
            count = int(len(chats) * VALIDATION_SHARE)
            if not count:
                raise ValueError(f"{len(chats)} {self.items} are too few to keep some for validation: give --valid.")
            training, held_out = chats[:-count], chats[-count:]
        self._questions = kerasllm.data.read_questions(settings.test) if settings.test else []
        return {"train": training, "valid": held_out}

    def _records(self, sources):
        return list(kerasllm.data.read_chats(sources))

    def datasets(self, config, tokenizer, folder):
        from kerasllm.data.chat_windows import batches_of, tokenized

        self.measure()
        window, packed = self._window_of(config), self.settings.packed
        training, held_out = (tokenized(chats, tokenizer, window, {}) for chats in self._chats.values())
        self._held_out = batches_of(held_out, tokenizer, window, 1, packed=packed, shuffle=False)
        self._held_out_tokens = int(held_out.learned.sum())
        batches = functools.partial(
            batches_of, training, tokenizer, window, self.settings.batch_size, seed=self.settings.seed, packed=packed
        )
        return batches, self._held_out

    def tokens_per_step(self, config, training):
        """No FLOPs of adapters: what they save is another share in each model."""
        window = self._window_of(config)
        flops = config.flops_per_token(window) if self.settings.adapter == "none" else None
        return self.settings.batch_size * window, flops

    def begin(self, model, tokenizer):
        from kerasllm import report
        from kerasllm.files import write_json

        report.stage("Measuring what the model does before it is tuned")
        before = {**self._figures(model), "answers": self._answers(model, tokenizer)}
        write_json(Path(self.settings.out) / BEFORE, before)

    def score(self, model, tokenizer):
        from kerasllm.files import read_json

        out = Path(self.settings.out)
        before, figures = read_json(out / BEFORE), self._figures(model)
        if self._questions:
            answers = zip(self._questions, before["answers"], self._answers(model, tokenizer), strict=True)
            (out / PAGE).write_text(_page(self.settings, before["loss"], figures["loss"], answers), encoding="utf-8")
        return {
            **figures,
            "loss_before": before["loss"],
            "tokens": self._held_out_tokens,
            self.items: len(self._chats["valid"]),
            "questions": len(self._questions),
        }

    def _figures(self, model):
        """The loss on what was held out, and what else is measured there."""
        return {"loss": model.evaluate(self._held_out, verbose=0, return_dict=True)["loss"]}

    def _answers(self, model, tokenizer):
        length = min(ANSWER_TOKENS, model.config.max_length // 2)
        options = {"max_new_tokens": length, "sampler": "greedy", "shorten": True}
        return [kerasllm.chat(model, tokenizer, question, **options) for question in self._questions]

    @staticmethod
    def rows(figures):
        yield "loss of answers before, nats per token", f"{figures['loss_before']:,.4f}"
        yield "and after", f"{figures['loss']:,.4f}"
        yield "measured on", f"{figures['tokens']:,} tokens of answers in {figures['conversations']:,} conversations"
        if figures["questions"]:
            yield "questions answered before and after", f"{figures['questions']:,}, in {PAGE}"


def _measured(chats, items):
    digest, size = hashlib.sha256(), 0
    for chat in chats:
        written = json.dumps(chat, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
        digest.update(len(written).to_bytes(8, "little"))
        digest.update(written)
        size += len(written)
    return {items: len(chats), "bytes": size, "sha256": digest.hexdigest()}


def _page(settings, loss_before, loss, answers):
    """Questions and answers in Markdown, what was said before beside what is said now."""
    parts = [
        f"# Answers before and after\n\n{settings.base} tuned on {', '.join(settings.data)}: the loss of answers that "
        f"were held out was {loss_before:.4f}, and is {loss:.4f}. Answers are greedy, of at most "
        f"{ANSWER_TOKENS} tokens.\n"
    ]
    for number, (question, before, after) in enumerate(answers, start=1):
        said = "\n>\n".join(f"> **{message['role']}:** {_quoted(message['content'])}" for message in question)
        parts.append(f"## {number}\n\n{said}\n\n| before | after |\n|---|---|\n| {_cell(before)} | {_cell(after)} |\n")
    return "\n".join(parts)


def _quoted(text):
    return _plain(text).replace("\n", "\n> ")


def _cell(text):
    return _plain(text.strip()).replace("|", "\\|").replace("\n", "<br>")


def _plain(text):
    """Text that Markdown shows as it is, and no browser takes for anything else."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
