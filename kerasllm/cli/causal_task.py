"""`--task causal`: a model learns to predict the next token of a text."""

import functools

from kerasllm import data
from kerasllm.cli.corpus import Corpus, Measured
from kerasllm.cli.evaluate import score
from kerasllm.data.splitting import Spool, split_once
from kerasllm.models import CausalLM

DEFAULT_BATCH_SIZE = 32
PARTS = "train", "valid"


class CausalTask:
    """What `recipe.train` asks of a task; every task has these methods.

    Args:
        settings: a `kerasllm.cli.settings.TrainSettings`.
    """

    model_class = CausalLM
    special_tokens = ()  # of a tokenizer that is to be trained, besides the usual
    make_dataset = staticmethod(data.causal_lm_dataset)

    def __init__(self, settings):
        self._settings, self._measures = settings, {}

    def measure(self):
        """The parts of the text with their counts and fingerprints, a dict; reads it unless `datasets` has."""
        if not self._measures:
            self._read(lambda part, documents: None)
        return self._measures

    def texts(self):
        """What a tokenizer is to be trained on."""
        return Corpus(self._settings.data, "all" if self._settings.valid else "train", *self._settings.field)

    def datasets(self, config, tokenizer, folder):
        """Tokenizes into `folder`, so that a text too short is refused before the run begins.

        Where the run goes on, the tokens are there, and read to be sure that they are those that were written.

        Returns:
            A function (epochs, start_step) -> the data set to train on, and the one to measure on.
        """
        if folder.exists():
            files = {part: data.TokenFiles(folder / part) for part in PARTS}
            for part in PARTS:
                files[part].verify()
        else:
            files = self._read(lambda part, documents: data.write_tokens(documents, tokenizer, folder / part))

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
        return score(model, tokenizer, self._held_out)

    def _read(self, use):
        """Reads the text once, keeping what is held out and the measures of both parts.

        Args:
            use: function (part, documents), for what comes of each part.

        Returns:
            A dict of the parts with what `use` returned.
        """
        field = self._settings.field
        documents = Corpus(self._settings.data, "all", *field)
        if self._settings.valid:
            training, self._held_out = documents, Spool(Corpus(self._settings.valid, "all", *field))
        else:
            training, self._held_out = split_once(documents)
        used = {}
        for part, documents in zip(PARTS, (training, self._held_out), strict=True):
            measured = Measured(documents)
            used[part] = use(part, measured)
            self._measures[part] = measured.measures()
        return used
