"""The settings of a training run that most tasks have; train_settings.py has those of some of them."""

import dataclasses
from dataclasses import dataclass

from kerasllm.settings.values import about
from kerasllm.tasks import TASKS

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "bfloat16", "mixed_float16")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "stable")


def setting(default, kind, help, **more):
    """A field of a dataclass of settings, with what `values.about` says of it."""
    return dataclasses.field(default=default, metadata=about(kind, help, **more))


@dataclass(frozen=True, init=False)
class GeneralSettings:
    """What `TrainSettings` adds to: see there."""

    task: str = setting(
        "causal", str, "; ".join(f"{name} {task.learns}" for name, task in TASKS.items()), choices=TASKS
    )
    data: tuple[str, ...] = setting(
        (),
        str,
        "what to train on: files (text, .jsonl, .json, .csv, .tsv, .parquet, compressed or not), folders, globs, "
        "tfds:NAME, hf:OWNER/NAME, python_docs, or what kerasllm prepare made, several as FOLDER@WEIGHT:TOKENS; to "
        "translate: two files of one sentence a line, one of records or of two columns, or tfds:NAME; caption and "
        "contrast: a folder of images with a .jsonl file, .tar shards, .parquet files or tfds:NAME",
        metavar="PATH",
    )
    valid: tuple[str, ...] = setting(
        (), str, "what to measure on (default: the last 10 %% of the data, not trained on)", metavar="PATH"
    )
    test: tuple[str, ...] = setting(
        (),
        str,
        "translate: pairs to score at the end (default: what --valid says); tune: questions that are answered before "
        "and after",
        metavar="PATH",
    )
    field: tuple[str, ...] = setting(
        (),
        str,
        "column or field of --data with the text, OUTER.INNER for one inside another (default: text, or the only one "
        "with text); to translate: two, the source's and the target's; caption and contrast: two, of images and texts",
        metavar="NAME",
    )
    clean: tuple[str, ...] = setting(
        (),
        str,
        "clean the documents of --data first, by these rules of kerasllm.data.clean or groups of them: repair, "
        "quality, personal, strict (alone: repair and quality)",
        metavar="RULE",
        alone=("repair", "quality"),
    )
    deduplicate: bool = setting(False, bool, "leave out documents of --data that are like one before")
    canaries: tuple[str, ...] = setting(
        (),
        str,
        "causal and masked: put made-up secrets into the training text, so many times each, for kerasllm audit memory "
        "(alone: 1 4 16 64)",
        metavar="TIMES",
        alone=("1", "4", "16", "64"),
    )
    out: str | None = setting(None, str, "run folder to make; it must not exist, or be empty", metavar="RUN")
    tokenizer: str = setting(
        "bpe", str, "bpe, wordpiece, unigram, char or byte, trained on the data, or a folder that holds a tokenizer"
    )
    vocab_size: int = setting(4000, int, "the most ids of the tokenizer to train", least=1)
    preset: str | None = setting(None, str, "published architecture to start from, such as gpt2 or llama")
    model: dict = dataclasses.field(
        default_factory=dict,
        metadata=about(dict, "any field of TransformerConfig, such as model.num_kv_heads=2; may be repeated"),
    )
    packed: bool = setting(False, bool, "windows hold whole documents where they fit, which do not see each other")
    context_warmup: tuple[str, ...] = setting(
        (),
        str,
        "causal and masked: shorter windows first, of so many tokens for so many steps, and more of them in a step",
        metavar="TOKENS:STEPS",
    )
    batch_size: int | None = setting(None, int, "windows in a training step (default: 32); not to translate", least=1)
    batch_tokens: int | None = setting(
        None, int, "translate only: tokens of one side in a training step (default: 4096)", least=1
    )
    micro_batches: int = setting(
        1, int, "parts that a step takes its batch in, to save memory; the update is the same", least=1
    )
    steps: int | None = setting(None, int, "training steps (default: 1000, or what --epochs makes)", least=1)
    epochs: int | None = setting(None, int, "passes over the data, in place of --steps", least=1)
    label_smoothing: float = setting(0.0, float, "share of a target that all tokens get alike", least=0, below=1)
    loss_chunk: int | None = setting(
        None, int, "tokens whose logits exist at a time, to save memory; the numbers are the same", least=1
    )
    optimizer: str = setting(
        "adamw", str, "adamw, or muon for the matrices of hidden layers and adamw for the rest", choices=OPTIMIZERS
    )
    schedule: str = setting(
        "cosine",
        str,
        "the learning rate falls to a tenth along a cosine, or stays and falls in the second half to 0",
        choices=SCHEDULES,
    )
    learning_rate: float = setting(1e-3, float, "at its peak", least=0)
    warmup_steps: int = setting(100, int, "steps of linear warm-up, at most a tenth of all", least=0)
    weight_decay: float = setting(0.1, float, "decoupled; not on norms, biases and embeddings", least=0)
    ema_momentum: float = setting(
        0.0, float, "momentum of an average of the weights, which is measured and kept in their place", least=0, below=1
    )
    precision: str = setting(
        "auto", str, "what the model computes in; auto takes what is fastest here", choices=PRECISIONS
    )
    save_every: str = setting(
        "10m", str, "save a checkpoint every so many minutes, 10m, or steps, 500; train --resume goes on from it"
    )
    log_to: tuple[str, ...] = setting(
        (),
        str,
        "experiment trackers that get the log too: tensorboard, into the run folder, mlflow, wandb",
        metavar="TRACKER",
    )
    watch_layers: int | None = setting(
        None,
        int,
        "every so many steps, measure gradients, updates and activations layer by layer into watch.jsonl, in at most "
        "2 %% of the time",
        least=1,
    )
    sample: tuple[str, ...] = setting(
        (), str, "texts that the model continues at the end of each round, into samples.md", metavar="PROMPT"
    )
    keep_checkpoints: int | None = setting(
        None,
        int,
        "keep so many of the newest checkpoints, also when the run is finished, for evaluate --checkpoints (default: 2 "
        "while it runs)",
        least=1,
    )
    seed: int = setting(0, int, "of the weights, the data order and dropout", least=0)
