"""`prepare`: what it is given, checked, and where it is done."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from kerasllm.data import TokenFiles
from kerasllm.data.sources import parts_of
from kerasllm.data.steps import check_least
from kerasllm.data.token_writing import COUNTS, MANIFEST, SHARDS, write_manifest
from kerasllm.extras import optional
from kerasllm.files import check_documents, new_folder
from kerasllm.preparation import one_machine
from kerasllm.preparation.chunks import groups_of
from kerasllm.preparation.job import DocumentRules, Job
from kerasllm.progress import progress_bar
from kerasllm.storage import RemotePath, new_file, path_of
from kerasllm.tokenizers import Tokenizer, as_tokenizer

_SHARD_BYTES = 2**26
_MOST_SHARDS = 256  # that one process keeps open
_MOST_SHARDS_OF_BEAM = 2**14


def prepare(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    tokenizer: Tokenizer,
    folder: str | os.PathLike,
    *,
    field: str | None = None,
    data_dir: str | os.PathLike | None = None,
    clean: Iterable[str] = (),
    deduplicate: bool = False,
    languages: Iterable[str] = (),
    held_out: Iterable[str] = (),
    num_shards: int | None = None,
    runner: Sequence[str] = (),
    progress: bool = True,
) -> TokenFiles:
    """Cleans, deduplicates and tokenizes a corpus of any size into shards of token files.

    Without a runner this process does it. With one, Apache Beam does, on processes or machines (with `pip install
    apache-beam`): the same documents stay, and the files have the same bytes. A worker that fails is begun anew, and
    nothing is lost or doubled.

    Each worker of Beam reads whole files, so that a large corpus is best given in many. A shard is put in order in the
    memory of one worker, which takes some 300 MB for 64 MB of text.

    Args:
        source, field, data_dir: as in `data.read_text`.
        tokenizer: `Tokenizer`. It is saved in the folder too.
        folder: the folder to make. With workers on other machines one that all see, such as "gs://BUCKET/tokens".
        clean: names of rules or groups, as in `data.clean`.
        deduplicate: bool, whether documents that are like an earlier one go, as in `data.deduplicate`.
        languages: iterable of str, those that stay, as in `data.keep_languages`; none for all.
        held_out: iterable of str, texts to measure on; documents with pieces of them go, as in `data.decontaminate`.
        num_shards: int. None: one for each 64 MB of files, at most 256, or with a runner 16,384.
        runner: Beam's options, list of str, such as ["--runner", "DirectRunner", "--direct_num_workers", "8",
            "--direct_running_mode", "multi_processing"].
        progress: bool, whether to show documents, tokens and tokens/s (on standard error), without a runner.

    Returns:
        `data.TokenFiles` of the folder, whose `report` says what each rule did.

    Raises:
        FileExistsError: where the folder exists.
        ImportError: for a runner where Apache Beam is not installed.
        ValueError: where no document stays, and as `data.read_text`, `data.clean`, `data.keep_languages` and
            `data.decontaminate`.

    Example:

    >>> tokenizer = Tokenizer.train([], kind="byte")
    >>> folder = os.path.join(tempfile.mkdtemp(), "tokens")
    >>> files = prepare("python_docs", tokenizer, folder, clean=["repair"], deduplicate=True, progress=False)
    >>> files.report["deduplicate"]["removed"]["exact_duplicate"]
    0
    """
    check_documents("held_out", held_out)
    if num_shards is not None:
        check_least(1, num_shards=num_shards)
    left_out: list[str] = []
    parts = parts_of(source, field, data_dir, left_out.append)
    most = _MOST_SHARDS_OF_BEAM if runner else _MOST_SHARDS
    if num_shards is None:
        num_shards = min(max(1, -(-sum(part.size for part in parts) // _SHARD_BYTES)), most)
    elif num_shards > most:
        raise ValueError(f"num_shards={num_shards} is more than {most}, which is the most that can be written.")
    clean = (clean,) if isinstance(clean, str) else tuple(clean)
    languages = (languages,) if isinstance(languages, str) else tuple(languages)
    rules = clean, deduplicate, tuple(held_out), languages
    job = Job(groups_of(parts), as_tokenizer(tokenizer), num_shards, *rules, left_out)
    DocumentRules(job)  # which refuses unknown rules
    if runner:
        optional("apache_beam", "Corpora are prepared on several processes or machines")
    with _new_folder(path_of(folder)) as draft:
        _save_tokenizer(job.tokenizer, draft)
        finish = functools.partial(_finish, draft, job.tokenizer)
        if runner:
            from kerasllm.preparation import pipeline

            with _worker_errors():
                pipeline.run(job, draft, list(runner), finish)
        else:
            with progress_bar(progress) as bar:
                finish(*one_machine.run(job, draft, _shown(bar)))
    return TokenFiles(folder)


@contextlib.contextmanager
def _worker_errors():
    """Says in one sentence what went wrong in another process, where Beam gives its traceback as text."""
    try:
        yield
    except RuntimeError as error:
        *_, last = [line for line in str(error).splitlines() if line.strip()] or ["it does not say why"]
        raise ValueError(f"A worker of Apache Beam failed: {last.strip()}") from error


def _finish(folder, tokenizer, shards, report):
    counts = {name: sum(shard[name] for shard in shards) for name in COUNTS[1:]}
    write_manifest(folder, tokenizer, SHARDS, counts, {"shards": shards, "report": report})


@contextlib.contextmanager
def _new_folder(folder):
    """As `files.new_folder`; in an object store, which knows no folders, the manifest makes it one when it comes."""
    if not isinstance(folder, RemotePath):
        with new_folder(folder) as draft:
            yield draft
            for begun in draft.glob(".*"):
                begun.unlink()  # by a worker that was killed
    elif (folder / MANIFEST).exists():
        raise FileExistsError(f"{folder} has a {MANIFEST}, and is left as it is: name another.")
    else:
        yield folder


def _save_tokenizer(tokenizer, folder):
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save(temporary)
        for path in sorted(Path(temporary).iterdir()):
            with new_file(folder / path.name) as file:
                file.write(path.read_bytes())


def _shown(bar):
    task = bar.add_task("preparing", total=None, unit="tokens")

    def show(documents, num_bytes, tokens):
        bar.update(task, description=f"preparing {documents:,} documents, {num_bytes / 1e6:,.1f} MB", completed=tokens)

    return show
