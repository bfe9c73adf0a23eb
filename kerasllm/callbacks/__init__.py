"""What `fit` calls while it trains: checkpoints, speed on the progress bar, a log and a picture of the run.

They wait for no result that Keras does not fetch for its own progress bar, so a step costs what it costs without them.
`LossGuard` alone looks at each step when it is done, and `TranslationScore` takes its time at the end of an epoch.
"""

from kerasllm.callbacks.checkpoint import Checkpoint
from kerasllm.callbacks.loss_guard import LossGuard
from kerasllm.callbacks.run_log import RunLog
from kerasllm.callbacks.run_plot import RunPlot
from kerasllm.callbacks.throughput import Throughput, measure_matmul_peak
from kerasllm.callbacks.translation_score import TranslationScore

__all__ = ["Checkpoint", "LossGuard", "RunLog", "RunPlot", "Throughput", "TranslationScore", "measure_matmul_peak"]
