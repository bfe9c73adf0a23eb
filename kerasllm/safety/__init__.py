"""What keeps the use of models safe: `Filter` judges what is said to them and by them, `detect` finds watermarks in
texts, `audit_safety` measures what harm a model writes, `audit_memory` what it keeps of its text.

text_filter.py   what may be said, judged before anybody reads it
filter_parts.py  by words and patterns, by classifiers, by models that judge chats
harms.py         harm after prompts, and refusals of harmless ones
detecting.py     watermarks, found
thresholds.py    from how many false alarms there may be
memory.py        passages that come word for word, and members told from others
continued.py     what is written behind the beginnings of passages, and personal data in it
canaries.py      secrets made up and planted, and how far they stand out
token_scores.py  what a model says of the tokens of passages
"""

from kerasllm.safety.canaries import Canary, exposures, load_canaries, make_canaries, plant, save_canaries
from kerasllm.safety.detecting import Detection, calibrate, detect
from kerasllm.safety.filter_parts import Blocklist, GuardModel, TextClassifier
from kerasllm.safety.harms import SafetyScores, audit_safety
from kerasllm.safety.memory import Memory, audit_memory
from kerasllm.safety.text_filter import Decision, Filter

__all__ = [
    "Blocklist",
    "Canary",
    "Decision",
    "Detection",
    "Filter",
    "GuardModel",
    "Memory",
    "SafetyScores",
    "TextClassifier",
    "audit_memory",
    "audit_safety",
    "calibrate",
    "detect",
    "exposures",
    "load_canaries",
    "make_canaries",
    "plant",
    "save_canaries",
]
