"""What a training run can be told: one frozen dataclass, the source of the flags, the YAML keys and the checks.

Names are those of Python. What makes the model stands under `model`, with every field of `TransformerConfig`; those
that are asked for most have flags of their own (`MODEL_FLAGS`), and some settings have another name too (`SHORT`).
"""

import dataclasses
from dataclasses import MISSING, dataclass, field

from kerasllm.settings.names import MODEL_FLAGS, SHORT, in_own_names
from kerasllm.settings.values import about, checked, pairs_of, plain
from kerasllm.tasks import TASKS
from kerasllm.words import advice

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "bfloat16", "mixed_float16")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "stable")
ADAPTERS = ("lora", "rslora", "dora", "none")
TRACKERS = ("tensorboard", "mlflow", "wandb")
QUANTIZED = ("nf4", "nf4-dq", "fp4", "int4", "int8")


def _setting(default, kind, help, **more):
    return field(default=default, metadata=about(kind, help, **more))


@dataclass(frozen=True, init=False)
class TrainSettings:
    """The settings of `kerasllm train`, checked when they are made. Each field is a flag and a key of the YAML file.

    Args:
        **given: fields by their names or by those of `SHORT`; fields of `model` that have flags also by themselves.

    Raises:
        TypeError: for a name that is none of them.
        ValueError: for values that are not possible, or do nothing together.

    Example:
        >>> settings = TrainSettings(data="corpus.txt", out="my-run", num_layers=4, model={"num_kv_heads": 2})
        >>> settings.model
        {'num_kv_heads': 2, 'num_layers': 4}
    """

    task: str = _setting(
        "causal", str, "; ".join(f"{name} {task.learns}" for name, task in TASKS.items()), choices=TASKS
    )
    data: tuple[str, ...] = _setting(
        (),
        str,
        "what to train on: files (text, .jsonl, .json, .csv, .tsv, .parquet, compressed or not), folders, globs, "
        "tfds:NAME, hf:OWNER/NAME, python_docs, or what kerasllm prepare made, several as FOLDER@WEIGHT:TOKENS; to "
        "translate: two files of one sentence a line, one of records or of two columns, or tfds:NAME",
        metavar="PATH",
    )
    valid: tuple[str, ...] = _setting(
        (), str, "what to measure on (default: the last 10 %% of the data, not trained on)", metavar="PATH"
    )
    test: tuple[str, ...] = _setting(
        (),
        str,
        "translate: pairs to score at the end (default: what --valid says); tune: questions that are answered before "
        "and after",
        metavar="PATH",
    )
    field: tuple[str, ...] = _setting(
        (),
        str,
        "column or field of --data with the text, OUTER.INNER for one inside another (default: text, or the only one "
        "with text); to translate: two, the source's and the target's",
        metavar="NAME",
    )
    clean: tuple[str, ...] = _setting(
        (),
        str,
        "clean the documents of --data first, by these rules of kerasllm.data.clean or groups of them: repair, "
        "quality, personal, strict (alone: repair and quality)",
        metavar="RULE",
        alone=("repair", "quality"),
    )
    deduplicate: bool = _setting(False, bool, "leave out documents of --data that are like one before")
    canaries: tuple[str, ...] = _setting(
        (),
        str,
        "causal and masked: put made-up secrets into the training text, so many times each, for kerasllm audit memory "
        "(alone: 1 4 16 64)",
        metavar="TIMES",
        alone=("1", "4", "16", "64"),
    )
    out: str | None = _setting(None, str, "run folder to make; it must not exist, or be empty", metavar="RUN")
    tokenizer: str = _setting(
        "bpe", str, "bpe, wordpiece, unigram, char or byte, trained on the data, or a folder that holds a tokenizer"
    )
    vocab_size: int = _setting(4000, int, "the most ids of the tokenizer to train", least=1)
    preset: str | None = _setting(None, str, "published architecture to start from, such as gpt2 or llama")
    model: dict = dataclasses.field(
        default_factory=dict,
        metadata=about(dict, "any field of TransformerConfig, such as model.num_kv_heads=2; may be repeated"),
    )
    packed: bool = _setting(False, bool, "windows hold whole documents where they fit, which do not see each other")
    context_warmup: tuple[str, ...] = _setting(
        (),
        str,
        "causal and masked: shorter windows first, of so many tokens for so many steps, and more of them in a step",
        metavar="TOKENS:STEPS",
    )
    batch_size: int | None = _setting(None, int, "windows in a training step (default: 32); not to translate", least=1)
    batch_tokens: int | None = _setting(
        None, int, "translate only: tokens of one side in a training step (default: 4096)", least=1
    )
    micro_batches: int = _setting(
        1, int, "parts that a step takes its batch in, to save memory; the update is the same", least=1
    )
    steps: int | None = _setting(None, int, "training steps (default: 1000, or what --epochs makes)", least=1)
    epochs: int | None = _setting(None, int, "passes over the data, in place of --steps", least=1)
    label_smoothing: float = _setting(0.0, float, "share of a target that all tokens get alike", least=0, below=1)
    loss_chunk: int | None = _setting(
        None, int, "tokens whose logits exist at a time, to save memory; the numbers are the same", least=1
    )
    optimizer: str = _setting(
        "adamw", str, "adamw, or muon for the matrices of hidden layers and adamw for the rest", choices=OPTIMIZERS
    )
    schedule: str = _setting(
        "cosine",
        str,
        "the learning rate falls to a tenth along a cosine, or stays and falls in the second half to 0",
        choices=SCHEDULES,
    )
    learning_rate: float = _setting(1e-3, float, "at its peak", least=0)
    warmup_steps: int = _setting(100, int, "steps of linear warm-up, at most a tenth of all", least=0)
    weight_decay: float = _setting(0.1, float, "decoupled; not on norms, biases and embeddings", least=0)
    ema_momentum: float = _setting(
        0.0, float, "momentum of an average of the weights, which is measured and kept in their place", least=0, below=1
    )
    precision: str = _setting(
        "auto", str, "what the model computes in; auto takes what is fastest here", choices=PRECISIONS
    )
    save_every: str = _setting(
        "10m", str, "save a checkpoint every so many minutes, 10m, or steps, 500; train --resume goes on from it"
    )
    log_to: tuple[str, ...] = _setting(
        (),
        str,
        "experiment trackers that get the log too: tensorboard, into the run folder, mlflow, wandb",
        metavar="TRACKER",
    )
    watch_layers: int | None = _setting(
        None,
        int,
        "every so many steps, measure gradients, updates and activations layer by layer into watch.jsonl, in at most "
        "2 %% of the time",
        least=1,
    )
    sample: tuple[str, ...] = _setting(
        (), str, "texts that the model continues at the end of each round, into samples.md", metavar="PROMPT"
    )
    keep_checkpoints: int | None = _setting(
        None,
        int,
        "keep so many of the newest checkpoints, also when the run is finished, for evaluate --checkpoints (default: 2 "
        "while it runs)",
        least=1,
    )
    seed: int = _setting(0, int, "of the weights, the data order and dropout", least=0)
    base: str | None = _setting(
        None,
        str,
        "tune, classify and embed: the model to begin with, a run folder, or a folder or repository (owner/name) in "
        "Hugging Face's format",
        metavar="FOLDER",
    )
    adapter: str | None = _setting(
        None,
        str,
        "tune, classify and embed: what is trained beside the kernels of --from, or none to train all of it (default: "
        "none, or to tune lora)",
        choices=ADAPTERS,
    )
    quantize: str | None = _setting(
        None, str, "keep the kernels beside which adapters are trained in so many bits", choices=QUANTIZED
    )
    rank: int | None = _setting(None, int, "the width of adapters", least=1)
    alpha: float | None = _setting(None, float, "what adapters add is multiplied by alpha / rank")
    adapter_layers: tuple[str, ...] = _setting(
        (), str, "names of layers, such as query or q_proj, to adapt (default: all linear ones)"
    )
    train_also: tuple[str, ...] = _setting((), str, "names of layers to train beside adapters, such as final_norm")
    text_column: tuple[str, ...] = _setting(
        (),
        str,
        "classify only: column or field of --data with the texts (default: text), or two, of pairs of texts",
        metavar="NAME",
    )
    label_column: str | None = _setting(
        None, str, "classify only: column or field of --data with the labels (default: label)", metavar="NAME"
    )
    problem: str | None = _setting(
        None,
        str,
        "classify only: one label of several, any number of them, or a number (default: by what the labels are)",
        choices=("single_label", "multi_label", "regression"),
    )
    balanced: bool = _setting(False, bool, "classify only: rare labels count as much as frequent ones")
    chat_format: str | None = _setting(
        None, str, "tune only: how chats are written, chatml or a template in Jinja2 (default: the tokenizer's own)"
    )
    judge: str | None = _setting(
        None, str, "dialogue only: run folder of a judge; replies that it finds bad are not learned", metavar="FOLDER"
    )
    reward: tuple[str, ...] = _setting(
        (),
        str,
        "reward only: what an answer is worth, or several that are added up: exact, regex:PATTERN, json_schema, "
        "json_schema:FILE.json, length:CHARACTERS, reasoning_gym, or FILE.py:FUNCTION of (prompt, answer) or (prompt, "
        "answer, task)",
        metavar="REWARD",
    )
    group_size: int = _setting(8, int, "reward only: answers to each prompt of a step", least=2)
    answer_tokens: int = _setting(128, int, "reward only: the most tokens of an answer", least=1)
    loss: str | None = _setting(
        None,
        str,
        "prefer only: the loss of pairs, or of single answers with kto (default: dpo)",
        choices=("dpo", "ipo", "orpo", "simpo", "kto"),
    )
    beta: float | None = _setting(
        None,
        float,
        "prefer: what rewards are multiplied by; reward: what the divergence is (default: 0); higher stays nearer to "
        "the model as it was",
        least=0,
    )

    teacher: str | None = _setting(
        None,
        str,
        "causal only: a model, as for --from, whose probabilities are learned beside the tokens, with its tokenizer",
        metavar="FOLDER",
    )

    dp_epsilon: float | None = _setting(
        None,
        float,
        "causal, masked and tune: train with noise, so that the weights are differentially private by this epsilon; a "
        "row of the training data is what is protected",
        least=0,
    )
    dp_delta: float = _setting(1e-6, float, "the probability with which that may fail", least=0, below=1)
    dp_clip_norm: float = _setting(1.0, float, "the longest gradient of a row under --dp-epsilon", least=0)

    def __init__(self, **given):
        given = in_own_names(given)
        task = given.get("task", "causal")
        of_task = TASKS[task].defaults(given) if isinstance(task, str) and task in TASKS else {}
        given |= {name: value for name, value in of_task.items() if given.get(name) is None}
        for setting in dataclasses.fields(self):
            default = {} if setting.default is MISSING else setting.default
            value = given.pop(setting.name, default)
            if setting.name == "model":
                value = {name: _of_model(name, field) for name, field in value.items()}
            else:
                value = checked(setting.name, setting.metadata, value, default)
            object.__setattr__(self, setting.name, value)
        if given:
            raise TypeError(f"There is no setting {next(iter(given))!r}{advice_on(next(iter(given)))}")
        self._check()

    def _check(self):
        if not self.data:
            raise ValueError("Nothing to train on: give --data a file, a folder, tfds:NAME or python_docs.")
        if self.out is None:
            raise ValueError("No place for the run: give --out the name of a folder to make.")
        task = TASKS[self.task]
        for setting in dataclasses.fields(self):
            name = setting.name
            if name in task.unused_settings and getattr(self, name) != setting.default:
                raise ValueError(f"{name} does nothing for the task {self.task}: leave it out.")
        if self.field and len(self.field) != task.num_columns:
            raise ValueError(
                f"field takes {task.num_columns} for the task {self.task}, not {len(self.field)}: {self.field}."
            )
        if len(self.text_column) > 2:
            raise ValueError(f"text_column takes one column, or two of pairs of texts, not {self.text_column}.")
        if self.steps and self.epochs:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs} both set the length of the run; give one.")
        if not all(times.isascii() and times.isdecimal() and int(times) for times in self.canaries):
            raise ValueError(f"canaries takes how often each is put into the text, such as 1 16, not {self.canaries}.")
        self._check_privacy()
        self.save_interval()
        self.trackers()
        self.context_stages()

    def _check_privacy(self):
        if self.dp_epsilon is None:
            return
        if not TASKS[self.task].is_private:
            private = ", ".join(name for name, task in TASKS.items() if task.is_private)
            raise ValueError(f"dp_epsilon is for the tasks {private}, not for {self.task}: leave it out.")
        if self.keep_checkpoints:
            raise ValueError("keep_checkpoints is not for dp_epsilon: a checkpoint holds the key of the noise.")
        if self.context_warmup:
            raise ValueError("context_warmup is not for dp_epsilon, which counts windows of one length.")
        if not (self.dp_epsilon and self.dp_delta and self.dp_clip_norm):
            raise ValueError("dp_epsilon, dp_delta and dp_clip_norm are above 0.")
        if self.optimizer != "adamw" or self.precision == "mixed_float16":
            raise ValueError(
                "dp_epsilon trains with adamw, and not in mixed_float16, which scales what noise is measured by; got "
                f"optimizer={self.optimizer} and precision={self.precision}."
            )

    def context_stages(self):
        """What `context_warmup` says: list of (tokens, steps)."""
        return pairs_of("context_warmup", "tokens and steps, such as 1024:2000", self.context_warmup)

    def trackers(self):
        """What `log_to` names, with commas between or without: list of str."""
        names = [name for names in self.log_to for name in names.split(",") if name]
        if unknown := [name for name in names if name not in TRACKERS]:
            raise ValueError(f"log_to takes {', '.join(TRACKERS)}, not {unknown[0]!r}.")
        return list(dict.fromkeys(names))

    def save_interval(self):
        """What `save_every` is to `kerasllm.callbacks.Checkpoint`: a dict of one argument."""
        number = self.save_every.removesuffix("m")
        if not number.isascii() or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"save_every takes minutes, such as 10m, or steps, such as 500, not {self.save_every!r}.")
        return {"every_steps" if number == self.save_every else "every_minutes": int(number)}

    def to_dict(self):
        """Plain JSON types; `TrainSettings(**d)` reads them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


NAMES = [setting.name for setting in dataclasses.fields(TrainSettings)]


def advice_on(name):
    """What is said of a name that no setting has: what it may have been, or which there are."""
    known = [*NAMES, *MODEL_FLAGS]
    return advice(name.replace("-", "_"), known, SHORT) or (
        f"; the settings are {', '.join(known)}, and the fields of TransformerConfig under `model`."
    )


def _of_model(name, value):
    """A field of the model as plain JSON types; what it takes is for `TransformerConfig` to say, but for the flags."""
    if not isinstance(name, str):
        raise ValueError(f"model takes names of fields of TransformerConfig, not {name!r}.")
    if name in MODEL_FLAGS:
        return checked(name, MODEL_FLAGS[name], value)
    return plain(value)
