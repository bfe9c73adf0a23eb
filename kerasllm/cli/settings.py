"""What a training run can be told: one frozen dataclass, the source of the flags, the YAML keys and the checks."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path

import yaml

TASKS = ("causal", "masked", "translate")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "bfloat16", "mixed_float16")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "stable")
# What a run folder holds besides the model.
RECORD, SETTINGS, CHECKPOINTS = "run.json", "settings.yaml", "checkpoints"


def _setting(default, kind, help, *, choices=None, least=None, below=None, metavar=None):
    """A field whose metadata describes the flag and the values it takes: `least` <= value < `below`."""
    metadata = {"kind": kind, "help": help, "choices": choices, "least": least, "below": below, "metavar": metavar}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of `kerasllm train`, checked when they are made. Each field is a flag and a key of the YAML file."""

    task: str = _setting(
        "causal",
        str,
        "causal predicts the next token, masked those that were hidden; translate learns from pairs",
        choices=TASKS,
    )
    data: tuple[str, ...] = _setting(
        (),
        str,
        "what to train on: files (text, .jsonl, .json, .csv, .tsv, .parquet, compressed or not), folders, globs, "
        "tfds:NAME or python_docs; to translate: two files of one sentence a line, one of records or of two columns, "
        "or tfds:NAME",
        metavar="PATH",
    )
    valid: tuple[str, ...] = _setting(
        (), str, "what to measure on (default: the last 10 %% of the data, not trained on)", metavar="PATH"
    )
    test: tuple[str, ...] = _setting(
        (), str, "translate only: pairs to score at the end (default: what --valid says)", metavar="PATH"
    )
    field: tuple[str, ...] = _setting(
        (),
        str,
        "column or field of --data with the text, OUTER.INNER for one inside another (default: text, or the only one "
        "with text); to translate: two, the source's and the target's",
        metavar="NAME",
    )
    out: str | None = _setting(None, str, "run folder to make; it must not exist, or be empty", metavar="RUN")
    tokenizer: str = _setting(
        "bpe", str, "bpe, wordpiece, unigram, char or byte, trained on the data, or a folder that holds a tokenizer"
    )
    vocab_size: int = _setting(4000, int, "the most ids of the tokenizer to train", least=1)
    preset: str | None = _setting(None, str, "published architecture to start from, such as gpt2 or llama")
    layers: int | None = _setting(
        None, int, "number of Transformer blocks; to translate, of encoder and decoder each", least=1
    )
    d_model: int | None = _setting(None, int, "width of the model", least=1)
    heads: int | None = _setting(None, int, "number of attention heads; divides --d-model", least=1)
    dff: int | None = _setting(None, int, "width of the feed-forward layers", least=1)
    context: int | None = _setting(None, int, "tokens in a training window, and the longest the model takes", least=2)
    dropout: float | None = _setting(
        None, float, "share of activations dropped in training (default: the preset's, or 0)", least=0, below=1
    )
    attention_dropout: float | None = _setting(
        None, float, "share of attention probabilities dropped in training (default: as --dropout)", least=0, below=1
    )
    label_smoothing: float = _setting(0.0, float, "share of a target that all tokens get alike", least=0, below=1)
    ema: float = _setting(
        0.0, float, "momentum of an average of the weights, which is measured and kept in their place", least=0, below=1
    )
    batch_size: int | None = _setting(None, int, "windows in a training step (default: 32); not to translate", least=1)
    batch_tokens: int | None = _setting(
        None, int, "translate only: tokens of one side in a training step (default: 4096)", least=1
    )
    steps: int | None = _setting(None, int, "training steps (default: 1000, or what --epochs makes)", least=1)
    epochs: int | None = _setting(None, int, "passes over the data, in place of --steps", least=1)
    optimizer: str = _setting(
        "adamw", str, "adamw, or muon for the matrices of hidden layers and adamw for the rest", choices=OPTIMIZERS
    )
    schedule: str = _setting(
        "cosine",
        str,
        "the learning rate falls to a tenth along a cosine, or stays and falls in the second half to 0",
        choices=SCHEDULES,
    )
    lr: float = _setting(1e-3, float, "peak learning rate", least=0)
    warmup: int = _setting(100, int, "steps of linear warm-up, at most a tenth of all", least=0)
    weight_decay: float = _setting(0.1, float, "decoupled; not on norms, biases and embeddings", least=0)
    precision: str = _setting(
        "auto", str, "what the model computes in; auto takes what is fastest here", choices=PRECISIONS
    )
    save_every: str = _setting(
        "10m", str, "save a checkpoint every so many minutes, 10m, or steps, 500; train --resume goes on from it"
    )
    seed: int = _setting(0, int, "of the weights, the data order and dropout", least=0)

    def __post_init__(self):
        for setting in dataclasses.fields(self):
            object.__setattr__(self, setting.name, _checked(setting, getattr(self, setting.name)))
        if not self.data:
            raise ValueError("Nothing to train on: give --data a file, a folder, tfds:NAME or python_docs.")
        if self.out is None:
            raise ValueError("No place for the run: give --out the name of a folder to make.")
        others = ("batch_size",) if self.task == "translate" else ("batch_tokens", "test")
        for name in others:
            if getattr(self, name):
                raise ValueError(f"{name} does nothing for the task {self.task}: leave it out.")
        wanted = 2 if self.task == "translate" else 1
        if self.field and len(self.field) != wanted:
            raise ValueError(f"field takes {wanted} for the task {self.task}, not {len(self.field)}: {self.field}.")
        if self.steps and self.epochs:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs} both set the length of the run; give one.")
        self.save_interval()

    def save_interval(self):
        """What `save_every` is to `kerasllm.callbacks.Checkpoint`: a dict of one argument."""
        number = self.save_every.removesuffix("m")
        if not number.isascii() or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"save_every takes minutes, such as 10m, or steps, such as 500, not {self.save_every!r}.")
        return {"every_steps" if number == self.save_every else "every_minutes": int(number)}

    def to_dict(self):
        """Plain JSON types; `TrainSettings(**d)` reads them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


def read_yaml(path):
    """Reads settings from a YAML file.

    Args:
        path: path of a file with a mapping from names of settings, as in the flags but with underscores, to values.

    Returns:
        A dict of the settings it gives.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a mapping, or has a key that is no setting; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no settings file {path}; --config takes a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines such as `batch_size: 32`, not a {type(values).__name__}.")
    known = [setting.name for setting in dataclasses.fields(TrainSettings)]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key).replace("-", "_"), known, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(known)}."
            raise ValueError(f"{path} has the unknown setting {key!r}; {advice}")
    return values


def _checked(setting, value):
    """The value as the setting's type, or a ValueError that says which values it takes."""
    kind, choices, least, below = (setting.metadata[key] for key in ("kind", "choices", "least", "below"))
    if isinstance(setting.default, tuple):
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not all(isinstance(item, str) for item in values):
            raise ValueError(
                f"{setting.name} takes a {setting.metadata['metavar'].lower()} or a list of them, not {value!r}."
            )
        return tuple(values)
    if value is None and setting.default is None:
        return None
    wanted = {int: "a whole number", float: "a number", str: "a text"}[kind]
    try:
        # YAML reads 1e-3 as a text and 32 as an int; a float setting takes both, an int setting takes no 2.5.
        typed = kind(value) if not isinstance(value, (bool, list, dict, type(None))) else None
    except (ValueError, OverflowError):
        typed = None
    if typed is None or (kind is int and isinstance(value, float) and typed != value) or typed != typed:
        raise ValueError(f"{setting.name} takes {wanted}, not {value!r}.")
    if choices and typed not in choices:
        raise ValueError(f"{setting.name} takes {', '.join(choices)}, not {value!r}.")
    if (least is not None and typed < least) or (below is not None and typed >= below):
        limits = f"{wanted} of at least {least}" + (f" and below {below}" if below is not None else "")
        raise ValueError(f"{setting.name} takes {limits}, not {value!r}.")
    return typed
