"""Speed, memory and quality: `python -m kerasllm.benchmark train | generate | requests | corpus | example`.

`programs.py` holds what is measured beside the peers, `runner.py` starts each program in a process of its own and lets
them take turns; `requests.py` measures the memory of a SavedModel under many requests, `corpus.py` that of a large
corpus, `documented_example.py` what the five-line model learns.
"""

from kerasllm.benchmark.corpus import corpus_memory
from kerasllm.benchmark.requests import request_memory
from kerasllm.benchmark.runner import compare

__all__ = ["compare", "corpus_memory", "request_memory"]
