"""Speed and memory beside the peers: `python -m kerasllm.benchmark train | generate | corpus`.

`programs.py` holds what is measured, `runner.py` starts each program in a process of its own and lets them take turns;
`corpus.py` measures the memory of a large corpus.
"""

from kerasllm.benchmark.corpus import corpus_memory
from kerasllm.benchmark.runner import compare

__all__ = ["compare", "corpus_memory"]
