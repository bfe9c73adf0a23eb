"""What a training run can be told: one frozen dataclass, the source of the flags, the YAML keys and the checks.

Names are those of Python. What makes the model stands under `model`, with every field of `TransformerConfig`; those
that are asked for most have flags of their own (`MODEL_FLAGS`), and some settings have another name too (`SHORT`).
"""

import dataclasses
from dataclasses import MISSING, dataclass

from kerasllm.settings.general_settings import GeneralSettings, setting
from kerasllm.settings.names import MODEL_FLAGS, SHORT, in_own_names
from kerasllm.settings.values import checked, pairs_of, plain
from kerasllm.tasks import TASKS
from kerasllm.words import advice

ADAPTERS = ("lora", "rslora", "dora", "none")
TRACKERS = ("tensorboard", "mlflow", "wandb")
QUANTIZED = ("nf4", "nf4-dq", "fp4", "int4", "int8")


@dataclass(frozen=True, init=False)
class TrainSettings(GeneralSettings):
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

    base: str | None = setting(
        None,
        str,
        "tune, classify, embed, caption and contrast: the model to begin with, a run folder, or a folder or repository "
        "(owner/name) in Hugging Face's format",
        metavar="FOLDER",
    )
    adapter: str | None = setting(
        None,
        str,
        "tune, classify, embed, caption and contrast: what is trained beside the kernels of --from, or none to train "
        "all of it (default: none, or to tune lora)",
        choices=ADAPTERS,
    )
    quantize: str | None = setting(
        None, str, "keep the kernels beside which adapters are trained in so many bits", choices=QUANTIZED
    )
    rank: int | None = setting(None, int, "the width of adapters", least=1)
    alpha: float | None = setting(None, float, "what adapters add is multiplied by alpha / rank")
    adapter_layers: tuple[str, ...] = setting(
        (), str, "names of layers, such as query or q_proj, to adapt (default: all linear ones)"
    )
    train_also: tuple[str, ...] = setting((), str, "names of layers to train beside adapters, such as final_norm")
    text_column: tuple[str, ...] = setting(
        (),
        str,
        "classify only: column or field of --data with the texts (default: text), or two, of pairs of texts",
        metavar="NAME",
    )
    label_column: str | None = setting(
        None, str, "classify only: column or field of --data with the labels (default: label)", metavar="NAME"
    )
    problem: str | None = setting(
        None,
        str,
        "classify only: one label of several, any number of them, or a number (default: by what the labels are)",
        choices=("single_label", "multi_label", "regression"),
    )
    balanced: bool = setting(False, bool, "classify only: rare labels count as much as frequent ones")
    chat_format: str | None = setting(
        None, str, "tune only: how chats are written, chatml or a template in Jinja2 (default: the tokenizer's own)"
    )
    judge: str | None = setting(
        None, str, "dialogue only: run folder of a judge; replies that it finds bad are not learned", metavar="FOLDER"
    )
    reward: tuple[str, ...] = setting(
        (),
        str,
        "reward only: what an answer is worth, or several that are added up: exact, regex:PATTERN, json_schema, "
        "json_schema:FILE.json, length:CHARACTERS, reasoning_gym, or FILE.py:FUNCTION of (prompt, answer) or (prompt, "
        "answer, task)",
        metavar="REWARD",
    )
    group_size: int = setting(8, int, "reward only: answers to each prompt of a step", least=2)
    answer_tokens: int = setting(128, int, "reward only: the most tokens of an answer", least=1)
    loss: str | None = setting(
        None,
        str,
        "prefer only: the loss of pairs, or of single answers with kto (default: dpo)",
        choices=("dpo", "ipo", "orpo", "simpo", "kto"),
    )
    beta: float | None = setting(
        None,
        float,
        "prefer: what rewards are multiplied by; reward: what the divergence is (default: 0); higher stays nearer to "
        "the model as it was",
        least=0,
    )

    teacher: str | None = setting(
        None,
        str,
        "causal only: a model, as for --from, whose probabilities are learned beside the tokens, with its tokenizer",
        metavar="FOLDER",
    )

    dp_epsilon: float | None = setting(
        None,
        float,
        "causal, masked and tune: train with noise, so that the weights are differentially private by this epsilon; a "
        "row of the training data is what is protected",
        least=0,
    )
    dp_delta: float = setting(1e-6, float, "the probability with which that may fail", least=0, below=1)
    dp_clip_norm: float = setting(1.0, float, "the longest gradient of a row under --dp-epsilon", least=0)

    train: str | None = setting(
        None,
        str,
        "caption only: what is trained: the projector alone, as LLaVA begins, the language model with it, or all "
        "(default: all, or language where the encoder has learned before)",
        choices=("projector", "language", "all"),
    )
    encoder: str | None = setting(
        None,
        str,
        "caption only: a folder with a model whose encoder of pictures is taken as it has learned, such as one of "
        "--task contrast or CLIP",
        metavar="FOLDER",
    )

    def __init__(self, **given):
        given = in_own_names(given)
        task = given.get("task", "causal")
        of_task = TASKS[task].defaults(given) if isinstance(task, str) and task in TASKS else {}
        given |= {name: value for name, value in of_task.items() if given.get(name) is None}
        for each in dataclasses.fields(self):
            default = {} if each.default is MISSING else each.default
            value = given.pop(each.name, default)
            if each.name == "model":
                value = {name: _of_model(name, field) for name, field in value.items()}
            else:
                value = checked(each.name, each.metadata, value, default)
            object.__setattr__(self, each.name, value)
        if given:
            raise TypeError(f"There is no setting {next(iter(given))!r}{advice_on(next(iter(given)))}")
        self._check()

    def _check(self):
        if not self.data:
            raise ValueError("Nothing to train on: give --data a file, a folder, tfds:NAME or python_docs.")
        if self.out is None:
            raise ValueError("No place for the run: give --out the name of a folder to make.")
        task = TASKS[self.task]
        for each in dataclasses.fields(self):
            name = each.name
            if name in task.unused_settings and getattr(self, name) != each.default:
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


NAMES = [each.name for each in dataclasses.fields(TrainSettings)]


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
