"""Speed, memory and quality: what `kerasllm bench` measures.

`suites.py` and `model_suites.py` say which programs are measured side by side: `programs.py` and `peers.py`, and of
models at their real size `tuning.py`, `real.py`, `served.py`, `edge.py` and `first_answer.py`. `measuring.py` is what
each of their processes runs, `runner.py` lets them take turns, and `results.py` shows what came out.
`requests.py` measures the memory of a SavedModel under many requests, `corpus.py` that of a large corpus, `loading.py`
that of loading a checkpoint, `checkpointing.py` what it costs to save one and to resume, `cleaning.py` the speed of
cleaning text, `documented_example.py` what the five-line model learns, and how fast.
"""

from kerasllm.benchmark.corpus import corpus_memory
from kerasllm.benchmark.loading import load_memory
from kerasllm.benchmark.requests import request_memory
from kerasllm.benchmark.runner import compare

__all__ = ["compare", "corpus_memory", "load_memory", "request_memory"]
