"""How much memory a large corpus takes on its way from text to training steps."""

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

STEPS, SEQ_LEN, BATCH_SIZE = 50, 128, 8


def synthetic_documents(num_bytes, seed=0):
    """Yields documents of about 4 kB, `num_bytes` of ASCII in all: made-up words, the common ones short and often."""
    import numpy as np

    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfw"))
    words = ["".join(rng.choice(letters, 2 + int(np.log2(rank + 1)) // 2)) for rank in range(5000)]
    weights = 1 / np.arange(1, len(words) + 1)
    cumulative = np.cumsum(weights / weights.sum())
    made = 0
    while made < num_bytes:
        ranks = np.searchsorted(cumulative, rng.random(800))
        document = " ".join([words[min(rank, len(words) - 1)] for rank in ranks])[: num_bytes - made]
        made += len(document)
        yield document


def corpus_memory(num_bytes=10**9, folder=None):
    """Takes a synthetic corpus through `write_tokens`, packing and 50 training steps, and prints peak memory.

    Args:
        num_bytes: Size of the text.
        folder: Where the token files go for the while; about num_bytes of free disk. None: the system's place for
            temporary files.

    Returns:
        list of dict: stage, seconds, peak_mb (highest resident memory so far), above_start_mb (less that at the start,
        when everything was imported).

    Example:

    >>> kerasllm.benchmark.corpus_memory(num_bytes=10**6)
    """
    from kerasllm.data import causal_lm_dataset, write_tokens
    from kerasllm.models import CausalLM, TransformerConfig
    from kerasllm.tokenizers import Tokenizer

    results, start = [], peak_mb()

    def stage(name, work):
        began = time.perf_counter()
        outcome = work()
        seconds, peak = time.perf_counter() - began, peak_mb()
        results.append({"stage": name, "seconds": seconds, "peak_mb": peak, "above_start_mb": peak - start})
        return outcome

    folder = Path(tempfile.mkdtemp(prefix="kerasllm-corpus-", dir=folder))
    try:
        sample = synthetic_documents(min(num_bytes, 10**6))
        tokenizer = stage("train the tokenizer", lambda: Tokenizer.train(sample, vocab_size=4000, kind="bpe"))
        documents = synthetic_documents(num_bytes)
        stage(f"tokenize {num_bytes / 1e6:,.0f} MB", lambda: write_tokens(documents, tokenizer, folder / "tokens"))
        dataset = stage(
            "pack", lambda: causal_lm_dataset(folder / "tokens", tokenizer, SEQ_LEN, BATCH_SIZE, packed=True)
        )
        # Small, as the model's own memory is not what this measures.
        config = TransformerConfig(tokenizer.vocab_size, 2, 64, 2, 256, max_length=SEQ_LEN)
        model = CausalLM(config)
        model.compile()
        stage(f"train {STEPS} steps", lambda: model.fit(dataset.take(STEPS), shuffle=False, verbose=0))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _print(results)
    return results


def peak_mb():
    """The most memory of the CPU, not of a GPU, that this process has held so far, in MB.

    From /proc where there is one, as `getrusage` counts what the process that started this one held.
    """
    try:
        with open("/proc/self/status") as file:
            (line,) = [line for line in file if line.startswith("VmHWM")]
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return int(line.split()[1]) / 2**10


def _print(results):
    table = Table(title="Memory of a corpus from text to training")
    table.add_column("stage")
    for column in ("seconds", "peak MB", "above start-up"):
        table.add_column(column, justify="right")
    for row in results:
        figures = row["seconds"], row["peak_mb"], row["above_start_mb"]
        table.add_row(row["stage"], *(f"{figure:,.1f}" for figure in figures))
    Console().print(table)
