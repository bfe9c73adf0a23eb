"""How our models train: the step that Keras' `fit` takes, what it is given, and what a device computes fastest in.

token_model.py      `TokenModel`: the loss of a batch, of micro-batches and of chunks, and what is reported
by_example.py       `ExampleModel`: steps from clipped gradients of single examples
scoring_model.py    `ScoringModel`: log-probabilities of labels, of the model and of the one without its adapters
screened_model.py   `ScreenedModel`: what `fit`, `evaluate` and `predict` are given
inputs.py           names and forms of inputs, refused in one sentence
screen.py           a metric that finds what a compiled step cannot refuse
policies.py         dtype policies
"""

from kerasllm.training.policies import POLICIES, precision
from kerasllm.training.token_model import TokenModel

__all__ = ["POLICIES", "TokenModel", "precision"]


def __dir__():  # what completion shows
    return __all__
