"""Training that no single example can be told from: its optimizer, and the account of what it gives away.

dp_adamw.py     `DPAdamW`: AdamW over clipped gradients of single examples, with noise
accounting.py   `epsilon` and `noise_multiplier_for`: what noise promises, and what a promise needs
account.py      `Account`: epsilon in the progress bar and the log
promise.py      `Promise`: what a run of `kerasllm train` keeps to
"""

from kerasllm.privacy.account import Account
from kerasllm.privacy.accounting import ACCOUNTANTS, epsilon, noise_multiplier_for
from kerasllm.privacy.dp_adamw import DPAdamW
from kerasllm.privacy.promise import Promise, forget

__all__ = ["ACCOUNTANTS", "Account", "DPAdamW", "Promise", "epsilon", "forget", "noise_multiplier_for"]


def __dir__():  # what completion shows
    return __all__
