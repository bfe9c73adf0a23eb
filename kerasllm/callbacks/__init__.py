"""What `fit` calls while it trains: checkpoints, speed on the progress bar, a log and a picture of the run.

They wait for no result that Keras does not fetch for its own progress bar, so a step costs what it costs without them.
`LossGuard` alone looks at each step when it is done, `TranslationScore` and `TextSamples` take their time at the end of
an epoch, and `LayerWatch` a small share of all.
"""

from kerasllm.callbacks.checkpoint import Checkpoint
from kerasllm.callbacks.layer_watch import LayerWatch
from kerasllm.callbacks.loss_guard import LossGuard
from kerasllm.callbacks.run_comparison import Run, differing_settings, plot_runs, read_runs
from kerasllm.callbacks.run_log import RunLog
from kerasllm.callbacks.run_plot import RunPlot
from kerasllm.callbacks.stop_after import StopAfter
from kerasllm.callbacks.text_samples import TextSamples
from kerasllm.callbacks.throughput import Throughput, measure_matmul_peak
from kerasllm.callbacks.tracker import Tracker, check_tracker
from kerasllm.callbacks.translation_score import TranslationScore

__all__ = [
    "Checkpoint",
    "LayerWatch",
    "LossGuard",
    "Run",
    "RunLog",
    "RunPlot",
    "StopAfter",
    "TextSamples",
    "Throughput",
    "Tracker",
    "TranslationScore",
    "check_tracker",
    "differing_settings",
    "measure_matmul_peak",
    "plot_runs",
    "read_runs",
]
