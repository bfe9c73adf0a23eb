"""`--task translate`: a model learns to make a sentence of another one, from pairs of them."""

import functools
import hashlib
import itertools

from kerasllm import callbacks, data, evaluation, generation
from kerasllm.cli import report
from kerasllm.generation.translation import check_sources
from kerasllm.models import Seq2SeqLM

DEFAULT_BATCH_TOKENS = 4096
# Of the data, where no validation pairs are given.
VALIDATION_SHARE, MOST_VALIDATION_PAIRS = 0.1, 1000
# BLEU while the model trains is of this many pairs, greedily: it is to show the way, and to cost little.
WATCHED_PAIRS = 200


class TranslationTask:
    """The same as `CausalTask`, for pairs.

    Pairs of which a sentence also occurs in the validation or test pairs are not trained on.

    Args:
        settings: a `kerasllm.cli.settings.TrainSettings`.
    """

    model_class = Seq2SeqLM
    special_tokens = ()

    def __init__(self, settings):
        self._settings, self._measures = settings, {}

    def measure(self):
        """The parts of the pairs with their counts and fingerprints, a dict."""
        if not self._measures:
            self._measures = self._read()
        return self._measures

    def _read(self):
        """Reads the pairs once and keeps them; returns their measures."""
        settings = self._settings
        pairs = pairs_of(settings.data, settings.field)
        if settings.valid:
            self._validation = pairs_of(settings.valid, settings.field)
        else:
            count = min(int(len(pairs) * VALIDATION_SHARE), MOST_VALIDATION_PAIRS)
            if not count:
                raise ValueError(f"{len(pairs)} pairs are too few to keep some for validation: give --valid.")
            pairs, self._validation = pairs[:-count], pairs[-count:]
        self._test = pairs_of(settings.test, settings.field) if settings.test else self._validation
        held_out = {"valid": self._validation, **({"test": self._test} if settings.test else {})}
        for part in held_out.values():  # What their language needs to be scored is asked for now, not after training.
            targets = [target for _, target in part]
            evaluation.bleu(targets, targets)
        self._training, removed = data.remove_overlap(pairs, held_out)
        for name, count in removed.items():
            report.stage(f"{count:,} pairs left out of training: a sentence of theirs is in the {name} pairs too")
        if not self._training:
            counts = ", ".join(f"{count:,} with the {name} pairs" for name, count in removed.items())
            raise ValueError(
                f"Nothing is left to train on: each of the {len(pairs):,} pairs shares a sentence with those that are "
                f"held out ({counts}). Give other pairs to --valid and --test."
            )
        parts = {"train": self._training, **held_out}
        return {name: {**_measured(part), **_removed(removed, name)} for name, part in parts.items()}

    def texts(self):
        """What a tokenizer is to be trained on: both sides, for one vocabulary."""
        self.measure()
        return itertools.chain.from_iterable(self._training)

    def datasets(self, config, tokenizer, folder):
        """Tokenizes; returns a function (epochs, start_step) -> the data set to train on, and the one to measure on."""
        settings = self._settings
        self.measure()

        def dataset(pairs, **options):
            batch_tokens = settings.batch_tokens or DEFAULT_BATCH_TOKENS
            return data.seq2seq_dataset(
                pairs, tokenizer, batch_tokens, settings.seed, max_length=config.max_length, **options
            )

        for pairs in (self._validation, self._test):
            check_sources(tokenizer, [source for source, _ in pairs], config.max_length)
        # Shuffled, as a part of the validation pairs is measured while the model trains: not the shortest.
        return functools.partial(dataset, self._training), dataset(self._validation)

    def tokens_per_step(self, config, training):
        """Target tokens in a training batch; no FLOPs, as the two sides take different arithmetic."""
        return training.tokens_per_step, None

    def callbacks(self, tokenizer):
        """BLEU of some validation pairs."""
        return [callbacks.TranslationScore(self._validation[:WATCHED_PAIRS], tokenizer)]

    def score(self, model, tokenizer):
        """Translates the test pairs with beam search and scores that; returns a dict."""
        return score_translations(model, tokenizer, self._test)


def pairs_of(paths, columns=()):
    """All pairs of the sources that a setting names.

    Args:
        paths: one path or name that `kerasllm.data.read_pairs` takes, or two of text files.
        columns: two names or numbers, or none, as there.
    """
    if len(paths) > 2:
        raise ValueError(
            f"Pairs are read from two text files or from one source, got {len(paths)}: {', '.join(paths)}."
        )
    return list(data.read_pairs(*paths, columns=columns or None))


def score_translations(model, tokenizer, pairs, num_beams=4):
    """Scores a model's translations.

    Returns:
        A dict: that of `TranslationScores`, and "num_beams".
    """
    sources, targets = zip(*pairs, strict=True)
    translations = generation.translate(model, tokenizer, sources, num_beams)
    return {**evaluation.translation_scores(translations, targets).to_dict(), "num_beams": num_beams}


def _measured(pairs):
    digest = hashlib.sha256()
    size = 0
    for side in itertools.chain.from_iterable(pairs):
        encoded = side.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
        size += len(encoded)
    return {"pairs": len(pairs), "bytes": size, "sha256": digest.hexdigest()}


def _removed(removed, name):
    return {"removed_from_training": removed[name]} if name in removed else {}
