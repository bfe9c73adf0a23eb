"""`kerasllm inspect`: what a run folder says about itself, and whether its files are those that were saved."""

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from kerasllm import report
from kerasllm.files import MANIFEST, check_file, read_json, sealed_files
from kerasllm.settings import CHECKPOINTS, FIGURES, RECORD
from kerasllm.tasks import TASKS

_CONFIG, _LOG, _WEIGHTS = "config.json", "log.json", "model.safetensors"
_STEP = "step-"


def run(arguments):
    folder = Path(arguments.run)
    if not any((folder / name).is_file() for name in (RECORD, _CONFIG)):
        raise FileNotFoundError(
            f"{folder} is no run folder: it has no {RECORD} and no {_CONFIG}. kerasllm train and kerasllm.save write "
            "them."
        )
    record, description, log = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in (RECORD, _CONFIG, _LOG)
    )
    damages = []
    try:
        report.table(str(folder), [*_run_rows(folder, record, log), *_file_rows(folder, damages)])
        report.table("config", _config_rows(record, description))
        if record:
            report.table("best figures", _figure_rows(record, log))
            report.table("made with", _origin_rows(record))
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{folder} says what kerasllm does not write ({error!r}): it was changed or damaged."
        ) from error
    if damages:
        raise ValueError(damages[0] + (f" (And {len(damages) - 1} more.)" if len(damages) > 1 else ""))


def _run_rows(folder, record, log):
    if record and not (folder / MANIFEST).is_file():
        yield "state", f"not finished; kerasllm train --resume {folder} goes on"
    elif record:
        yield "state", "finished"
    parameters = record["model"]["parameters"] if record else _count_parameters(folder / _WEIGHTS)
    yield "parameters", f"{parameters:,}"
    if log:
        of_all = f" of {record['results']['steps']:,}" if "results" in record else ""
        yield "steps", f"{log['steps']:,}{of_all} in {log['seconds']:,.0f} s"
        if log["tokens"]:
            yield "tokens seen", f"{log['tokens']:,.0f}"
        yield "steps that went wrong", f"{len(log.get('events', ()))}"


def _count_parameters(path):
    try:
        with safe_open(path, framework="numpy") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy the folder again.") from error


def _file_rows(folder, damages):
    """Rows about the folder's files and its checkpoints; `damages` gets a sentence for each that is not whole."""
    if (folder / MANIFEST).is_file():
        yield "checksums", _verified(folder, damages)
    for path in sorted((folder / CHECKPOINTS).glob(f"{_STEP}*")):
        if path.suffix:
            yield f"checkpoint {path.name}", "damaged, and put aside"
        else:
            yield f"checkpoint {path.name}", _verified(path, damages)


def _verified(folder, damages):
    before = len(damages)
    try:
        files = sealed_files(folder)
    except (ValueError, OSError) as error:
        damages.append(str(error))
        return "damaged"
    for name, digest in files.items():
        try:
            check_file(folder, name, digest)
        except (ValueError, OSError) as error:
            damages.append(str(error))
    damaged = len(damages) - before
    return f"{damaged} of {len(files)} files damaged" if damaged else f"{len(files)} files, all as they were saved"


def _config_rows(record, description):
    config = description.get("config") or record["model"]
    yield "kind", description.get("kind") or record["settings"]["task"]
    if "base" in description:
        yield "base", description["base"].get("id") or description["base"]["path"]
    yield "precision", description.get("dtype_policy") or record["model"]["precision"]
    for name, value in config.items():
        if value not in (None, False) and name not in ("parameters", "trained_parameters", "precision"):
            yield name, str(value)


def _figure_rows(record, log):
    measured = [epoch for epoch in log.get("epochs", ()) if epoch.get("val_loss") is not None]
    if measured:
        best = min(measured, key=lambda epoch: epoch["val_loss"])
        yield "lowest validation loss", f"{best['val_loss']:.4f} after step {best['step']:,}"
    if log.get("tokens_per_second"):
        yield "training speed", f"{log['tokens_per_second']:,.0f} tokens/s"
    if record.get("results", {}).keys() - FIGURES:
        yield from TASKS[record["settings"]["task"]].rows_of_run(record["results"])


def _origin_rows(record):
    yield from ((name, record[name]) for name in ("started", "machine", "backend"))
    yield from record["versions"].items()
