"""`--task causal`: a model learns to predict the next token of a text."""

import functools

from kerasllm import data
from kerasllm.cli.corpus import Corpus
from kerasllm.cli.evaluate import score
from kerasllm.models import CausalLM

DEFAULT_BATCH_SIZE = 32


class CausalTask:
    """What `recipe.train` asks of a task; every task has these methods.

    Args:
        settings: a `kerasllm.cli.settings.TrainSettings`.
    """

    model_class = CausalLM
    special_tokens = ()  # of a tokenizer that is to be trained, besides the usual
    make_dataset = staticmethod(data.causal_lm_dataset)

    def __init__(self, settings):
        self._settings = settings
        train, valid = ("all", "all") if settings.valid else ("train", "valid")
        self._training = Corpus(settings.data, train, *settings.field)
        self._validation = Corpus(settings.valid or settings.data, valid, *settings.field)

    def measure(self):
        """Reads the text; returns a dict of its parts with their counts and fingerprints."""
        return {"train": self._training.measure(), "valid": self._validation.measure()}

    def texts(self):
        """What a tokenizer is to be trained on."""
        return self._training

    def datasets(self, config, tokenizer, folder):
        """Tokenizes into `folder`, so that a text too short is refused before the run begins.

        Where the run goes on, the tokens are there, and read to be sure that they are those that were written.

        Returns:
            A function (epochs, start_step) -> the data set to train on, and the one to measure on.
        """
        files = {
            part: _tokens(corpus, tokenizer, folder / part)
            for part, corpus in {"train": self._training, "valid": self._validation}.items()
        }

        def dataset(part, **options):
            return self.make_dataset(
                files[part],
                tokenizer,
                config.max_length,
                self._settings.batch_size or DEFAULT_BATCH_SIZE,
                seed=self._settings.seed,
                **options,
            )

        return functools.partial(dataset, "train"), dataset("valid", shuffle=False)

    def tokens_per_step(self, config, training):
        """Tokens in a batch of the training data set, and what training takes per token: (number, FLOPs or None)."""
        context = config.max_length
        return (self._settings.batch_size or DEFAULT_BATCH_SIZE) * context, config.flops_per_token(context)

    def callbacks(self, tokenizer):
        """What else is to be called while the model trains."""
        return []

    def score(self, model, tokenizer):
        """Measures the trained model; returns a dict."""
        return score(model, tokenizer, self._validation)


def _tokens(corpus, tokenizer, folder):
    if not folder.exists():
        return data.write_tokens(corpus, tokenizer, folder)
    files = data.TokenFiles(folder)
    files.verify()
    return files
