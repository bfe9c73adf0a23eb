"""What keeps the use of models safe: `detect` finds watermarks in texts, `audit_memory` what a model keeps of its own.

detecting.py     watermarks, found
memory.py        passages that come word for word, and members told from others
canaries.py      secrets made up and planted, and how far they stand out
token_scores.py  what a model says of the tokens of passages
"""

from kerasllm.safety.canaries import Canary, exposures, load_canaries, make_canaries, plant, save_canaries
from kerasllm.safety.detecting import Detection, calibrate, detect
from kerasllm.safety.memory import Memory, audit_memory

__all__ = [
    "Canary",
    "Detection",
    "Memory",
    "audit_memory",
    "calibrate",
    "detect",
    "exposures",
    "load_canaries",
    "make_canaries",
    "plant",
    "save_canaries",
]
