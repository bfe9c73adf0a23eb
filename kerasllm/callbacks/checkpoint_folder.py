"""A checkpoint: a model as `kerasllm.save` writes it, and beside it where its training stood.

config.json, tokenizer.json …   as in a run folder, where the model and its tokenizer are kerasllm's
model.safetensors               the weights by name; with adapters, those that the base does not have
training.safetensors            the variables of the optimizer and the seeds of dropout, by number
                                (these two in parts, where several processes write one each: see tensor_files.py)
training.json                   step, epoch, metrics, and the state of the callbacks that go on
manifest.json                   the SHA-256 of every file and of itself
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasllm import backend, runs
from kerasllm.bases import base_of_tuned
from kerasllm.callbacks import checkpoint_parts
from kerasllm.files import check_file, new_folder, read_json, seal, sealed_files, write_json
from kerasllm.images import ImageProcessor
from kerasllm.models.weights import weight_names
from kerasllm.tasks import model_classes
from kerasllm.tensor_files import Pieces, parts_of, read_tensors, stored_tensors, write_part, write_tensors
from kerasllm.tokenizers.sides import save_tokenizer

VARIABLES, PROGRESS = "training.safetensors", "training.json"
_FIELDS = {"model", "optimizer", "step", "epoch", "epoch_steps", "steps_per_epoch", "metrics", "val_loss", "callbacks"}


class Snapshot(NamedTuple):
    """What training has in memory, copied, so that it can go on while this is written.

    Attributes:
        weights, variables: dicts from names to arrays; of several processes that train together to `Pieces`, those
            that this one has.
        progress: dict of plain JSON types, what `training.json` says.
        processor: the `ImageProcessor` of a model that sees, or None.
    """

    weights: dict
    variables: dict
    progress: dict
    processor: ImageProcessor | None = None

    @classmethod
    def take(cls, model, progress):
        """Copies the state of a compiled model; `progress` says where its training stands."""
        progress = {
            "model": _describe(model),
            "optimizer": type(model.optimizer).__name__,
            "metrics": [backend.whole(variable).tolist() for variable in model.metrics_variables],
            **progress,
        }
        of_training, processor = _training_variables(model), getattr(model, "image_processor", None)
        if backend.process()[1] > 1:
            variables = {name: Pieces(tuple(v.shape), backend.own_parts(v)) for name, v in of_training.items()}
            return cls(runs.own_pieces(model), variables, progress, processor)
        variables = {name: backend.whole(variable) for name, variable in of_training.items()}
        weights, base = {}, base_of_tuned(model)
        for name, weight in weight_names(model).items():
            array = backend.whole(weight)
            if base is None or weight.trainable or not base.holds(name, array):
                weights[name] = array
        return cls(weights, variables, progress, processor)

    def write(self, folder, tokenizer=None):
        """Writes a checkpoint, whole or not at all; one that is there already is replaced. Of several processes each
        writes what it has, and the first one the rest when all have.

        Returns:
            Whether it is there now: else another process, which says why, has given it up.

        Raises:
            ValueError: if weights are not finite.
            OSError: if it, or a part of it, could not be written.
        """
        number, count = backend.process()
        if count == 1:
            self._check_finite()
            remove(folder)
            with new_folder(folder) as draft:
                write_tensors(draft / runs.WEIGHTS, self.weights)
                write_tensors(draft / VARIABLES, self.variables)
                self._write_rest(draft, tokenizer)
                seal(draft)
            return True
        checkpoint_parts.add(folder, self._write_part, number)
        if number:
            return checkpoint_parts.appears(folder)
        with checkpoint_parts.completed(folder, count) as (draft, digests):
            self._write_rest(draft, tokenizer)
            seal(draft, known=digests)
            remove(folder)
        return True

    def _check_finite(self):
        for tensor in self.weights.values():
            for array in [part for _, part in tensor.parts] if isinstance(tensor, Pieces) else [tensor]:
                if not np.isfinite(array.astype("float32", copy=False)).all():
                    raise ValueError(f"The weights after step {self.progress['step']} are not finite, and not saved.")

    def _write_part(self, draft):
        self._check_finite()
        named = {runs.WEIGHTS: self.weights, VARIABLES: self.variables}
        return [write_part(draft / name, pieces, *backend.process()) for name, pieces in named.items()]

    def _write_rest(self, draft, tokenizer):
        write_json(draft / PROGRESS, self.progress)
        if "kind" in self.progress["model"]:
            runs.write_config(draft, self.progress["model"])
            runs.save_processor(self.processor, draft)
        if tokenizer is not None:
            save_tokenizer(tokenizer, draft)


def checkpoints(folder):
    """The checkpoints in a folder: a dict from step to path, ascending, whole or not."""
    paths = [path for path in Path(folder).glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return {int(path.name.removeprefix("step-")): path for path in sorted(paths, key=lambda path: int(path.name[5:]))}


def path_of(folder, step):
    return Path(folder) / f"step-{step:08d}"


def remove(path):
    """Removes a checkpoint, if there is one: at once for whoever looks, and file by file after that."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(folder):
    """Removes what writing or removing has left behind where the program was killed."""
    for path in Path(folder).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def check(path):
    """Reads all of a checkpoint and returns its `training.json`.

    Raises:
        FileNotFoundError, ValueError: if a file is gone or is not the one that was saved; the message names it.
    """
    files = sealed_files(path)
    for name in (runs.WEIGHTS, VARIABLES, PROGRESS):
        if not any(part.name in files for part in parts_of(path / name) or [path / name]):
            raise ValueError(f"{path} is no checkpoint: its manifest does not list {name}.")
    for name, digest in files.items():
        check_file(path, name, digest)
    progress = read_json(path / PROGRESS)
    if lacking := _FIELDS - progress.keys():
        raise ValueError(f"{path / PROGRESS} lacks {min(lacking)!r}.")
    return progress


def restore(model, path, progress):
    """Reads a checkpoint that was checked into a compiled model, all of it or nothing.

    Raises:
        ValueError: if the model or its optimizer is another one.
    """
    for name, here in {"model": _describe(model), "optimizer": type(model.optimizer).__name__}.items():
        there = progress[name]
        if _without_place(here) != _without_place(there):
            raise ValueError(
                f"{path} is of another {name}: {_difference(there, here)}. Build and compile it as it was."
            )
    variables = _training_variables(model)
    weights, base = weight_names(model), base_of_tuned(model)
    needed = [name for name, weight in weights.items() if weight.trainable or base is None or name not in base.sums]
    stored_tensors(path / VARIABLES, variables)  # checked before any of the others is changed
    read_tensors(path / runs.WEIGHTS, weights, needed)
    read_tensors(path / VARIABLES, variables)


def _describe(model):
    if type(model).__name__ in model_classes():
        description = runs.describe(model)
        return {name: value for name, value in description.items() if name not in ("kerasllm", "generation_settings")}
    return {"class": type(model).__name__, "dtype_policy": model.dtype_policy.name}


def _without_place(description):
    """A description that is the same wherever the base is."""
    base = description.get("base") if isinstance(description, dict) else None
    return {**description, "base": [base["fingerprint"], base.get("new_tokens")]} if base else description


def _training_variables(model):
    """What training changes besides weights. Keras gives these other names in each program, so they are numbered."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    weights = {id(variable) for variable in model.weights}
    seeds = [variable for variable in model.variables if id(variable) not in weights]
    kinds = {"optimizer": model.optimizer.variables, "seed": seeds}
    return {f"{kind}.{i}": variable for kind, variables in kinds.items() for i, variable in enumerate(variables)}


def _difference(there, here):
    """The first place where two JSON values differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*here, *there]:
            if there.get(name) != here.get(name):
                return f"{name}: {_difference(there.get(name), here.get(name))}"
    return f"{there!r} there, {here!r} here"
