"""Whether a SavedModel remembers anything of the requests that it has answered: the memory of its process says."""

import os
import random
import string
import tempfile

from rich.console import Console
from rich.table import Table


def request_memory(counts=(100, 1_000, 10_000)):
    """Asks a SavedModel for texts of words that it has never seen, and prints the memory of the process on the way.

    Args:
        counts: ascending ints, after how many requests to look.

    Returns:
        list of dict: requests, resident_mb (of this process, at that moment).

    Example:

    >>> kerasllm.benchmark.request_memory((10, 20))
    """
    import tensorflow as tf

    import kerasllm
    from kerasllm.models import CausalLM, TransformerConfig

    text = list(kerasllm.data.read_text("python_docs"))
    tokenizer = kerasllm.tokenizers.Tokenizer.train(text, vocab_size=2000, progress=False)
    model = CausalLM(TransformerConfig(tokenizer.vocab_size, 2, 64, 2, 256, max_length=128))
    with tempfile.TemporaryDirectory() as folder:
        kerasllm.export.saved_model(model, tokenizer, f"{folder}/model")
        generate = tf.saved_model.load(f"{folder}/model").signatures["generate"]
    settings = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    inputs = {name: tf.constant(value) for name, value in settings.items()}
    draw = random.Random(0)
    results = []
    for number in range(1, max(counts) + 1):
        words = ["".join(draw.choices(string.ascii_letters, k=draw.randint(1, 16))) for _ in range(8)]
        generate(text=tf.constant([" ".join(words)]), seed=tf.constant(number), **inputs)
        if number in counts:
            results.append({"requests": number, "resident_mb": _resident_mb()})
    _print(results)
    return results


def _resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _print(results):
    table = Table(title="Memory of a process that answers requests of new words")
    table.add_column("requests", justify="right")
    table.add_column("resident MB", justify="right")
    for row in results:
        table.add_row(f"{row['requests']:,}", f"{row['resident_mb']:,.1f}")
    Console().print(table)
