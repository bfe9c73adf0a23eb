"""Speed and memory beside the peers: `python -m kerasllm.benchmark train | generate | corpus`.

`programs.py` holds what is measured, `runner.py` starts each program in a process of its own and lets them take turns.
"""

from kerasllm.benchmark.runner import benchmark

__all__ = ["benchmark"]
