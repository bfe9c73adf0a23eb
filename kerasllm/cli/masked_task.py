"""`--task masked`: a model learns to name the tokens of a text that were hidden."""

from kerasllm import data
from kerasllm.cli.causal_task import CausalTask
from kerasllm.cli.evaluate import score_masked
from kerasllm.models import MaskedLM


class MaskedTask(CausalTask):
    """The same as `CausalTask`, for hidden tokens.

    Args:
        settings: a `kerasllm.cli.settings.TrainSettings`.
    """

    model_class = MaskedLM
    special_tokens = ("<|mask|>",)
    make_dataset = staticmethod(data.masked_lm_dataset)

    def score(self, model, tokenizer):
        """Measures the trained model; returns a dict."""
        return score_masked(model, tokenizer, self._held_out)
