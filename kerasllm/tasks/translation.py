"""`--task translate`: a model learns to make a sentence of another one, from pairs of them."""

import functools
import hashlib
import itertools

import kerasllm
from kerasllm.tasks.task import MOST_SAMPLE_TOKENS, NOT_OF_TEXT, OF_TOKEN_TYPES, SAMPLE, Task, sample_ids

DEFAULT_BATCH_TOKENS = 4096
# Of the data, where no validation pairs are given.
VALIDATION_SHARE, MOST_VALIDATION_PAIRS = 0.1, 1000
# BLEU while the model trains is of this many pairs, greedily: it is to show the way, and to cost little.
WATCHED_PAIRS = 200
_SCORES = (("bleu", "BLEU"), ("chrf", "chrF2"), ("ter", "TER (less is better)"))


class TranslationTask(Task):
    """Pairs of texts, scored by BLEU, chrF and TER.

    Pairs of which a sentence also occurs in the validation or test pairs are not trained on.
    """

    name = "translate"
    learns = "makes a text of a text, from pairs"
    function = "translate"
    scored_by = "translation_scores"
    command = 'translate --model {} --text "A sentence."'
    unused_settings = ("batch_size", "packed", "clean", "deduplicate", *NOT_OF_TEXT)
    unused_fields = (*OF_TOKEN_TYPES, "embedding_size", "num_layer_groups")
    num_columns = 2

    def __init__(self, settings):
        super().__init__(settings)
        self._measures = {}

    @staticmethod
    def model_class():
        return kerasllm.models.Seq2SeqLM

    def model_fields(self):
        """An encoder has as many layers as the decoder where nothing else is said, whatever the preset has."""
        fields = super().model_fields()
        if "num_layers" in fields:
            fields.setdefault("num_encoder_layers", fields["num_layers"])
        return fields

    def measure(self):
        if not self._measures:
            self._measures = self._read()
        return self._measures

    def _read(self):
        """Reads the pairs once and keeps them; returns their measures."""
        from kerasllm import report

        settings = self.settings
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
            kerasllm.evaluation.bleu(targets, targets)
        self._training, removed = kerasllm.data.remove_overlap(pairs, held_out)
        for name, count in removed.items():
            report.stage(f"{count:,} pairs left out of training: a sentence of theirs is in the {name} pairs too")
        if not self._training:
            counts = ", ".join(f"{count:,} with the {name} pairs" for name, count in removed.items())
            raise ValueError(
                f"Nothing is left to train on: each of the {len(pairs):,} pairs shares a sentence with those that are "
                f"held out ({counts}). Give other pairs to --valid and --test."
            )
        parts = {"train": self._training, **held_out}
        return {name: {**measured(part), **_removed(removed, name)} for name, part in parts.items()}

    def texts(self):
        """Both sides, for one vocabulary."""
        self.measure()
        return itertools.chain.from_iterable(self._training)

    def datasets(self, config, tokenizer, folder):
        from kerasllm.generation.translation import check_sources

        settings = self.settings
        self.measure()
        beginning = {name: getattr(config, name) for name in ("decoder_start_id", "forced_bos_id")}

        def dataset(pairs, **options):
            batch_tokens = settings.batch_tokens or DEFAULT_BATCH_TOKENS
            return kerasllm.data.seq2seq_dataset(
                pairs, tokenizer, batch_tokens, settings.seed, max_length=config.max_length, **beginning, **options
            )

        for pairs in (self._validation, self._test):
            check_sources(tokenizer, [source for source, _ in pairs], config.max_length)
        # Shuffled, as a part of the validation pairs is measured while the model trains: not the shortest.
        return functools.partial(dataset, self._training), dataset(self._validation)

    def tokens_per_step(self, config, training):
        """Those of targets; no FLOPs, as the two sides take different arithmetic."""
        return training.tokens_per_step, None

    def callbacks(self, tokenizer):
        """BLEU of some validation pairs."""
        return [kerasllm.callbacks.TranslationScore(self._validation[:WATCHED_PAIRS], tokenizer)]

    def score(self, model, tokenizer):
        return _scores(model, tokenizer, self._test)

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns):
        return _scores(model, tokenizer, pairs_of(sources, columns))

    @staticmethod
    def rows(figures):
        for name, label in _SCORES:
            yield label, f"{figures[name]['score']:.2f}"
            yield "", figures[name]["signature"]
        yield "measured on", f"{figures['sentences']:,} sentences, {figures['num_beams']} beams"

    @staticmethod
    def served(model, tokenizer, text):
        from kerasllm.export import translator

        return translator.ServedTranslator(model, tokenizer) if text else translator.ServedIds(model)

    @staticmethod
    def sample_inputs(model):
        ids, config = sample_ids(model.config), model.config
        return {
            "source_ids": ids % (config.source_vocab_size or config.vocab_size),
            "source_mask": ids > 0,
            "target_ids": ids % config.vocab_size,
        }

    @staticmethod
    def compared(model, tokenizer, signatures):
        import tensorflow as tf

        if "translate" not in signatures:
            return None
        options = {
            "num_beams": 4,
            "length_penalty": 1.0,
            "max_new_tokens": min(MOST_SAMPLE_TOKENS, model.config.max_length),
        }
        inputs = {name: tf.constant(value) for name, value in {"text": [SAMPLE], **options}.items()}
        made = signatures["translate"](**inputs)["text"][0].numpy().decode()
        return made, kerasllm.translate(model, tokenizer, SAMPLE, **options)


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
    return list(kerasllm.data.read_pairs(*paths, columns=columns or None))


def _scores(model, tokenizer, pairs, num_beams=4):
    sources, targets = zip(*pairs, strict=True)
    translations = kerasllm.translate(model, tokenizer, sources, num_beams)
    return {**kerasllm.evaluation.translation_scores(translations, targets).to_dict(), "num_beams": num_beams}


def measured(pairs):
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
