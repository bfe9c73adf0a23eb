"""`--task causal`: a model learns to predict the next token of a text."""

import dataclasses
import functools

import kerasllm
from kerasllm.tasks.corpus import Zipped
from kerasllm.tasks.task import MOST_SAMPLE_TOKENS, OF_DISTILLING, OF_ENCODERS, OF_TOKEN_TYPES, SAMPLE
from kerasllm.tasks.text import TextTask

_SCORES = (
    ("loss", "loss, nats per token"),
    ("perplexity", "perplexity per token"),
    ("word_perplexity", "perplexity per word"),
    ("bits_per_byte", "bits per byte"),
    ("gzip_bits_per_byte", "bits per byte of gzip -9"),
)


class CausalTask(TextTask):
    """Next-token prediction, scored by perplexity beside what gzip makes of the text."""

    name = "causal"
    learns = "predicts the next token"
    function = "generate"
    scored_by = "perplexity"
    command = 'generate --model {} --prompt "The" --temperature 0.8 --seed 1'
    unused_settings = tuple(name for name in TextTask.unused_settings if name not in OF_DISTILLING)
    unused_fields = (*OF_ENCODERS, *OF_TOKEN_TYPES, "embedding_size")
    planned_as = {"causal": True}
    has_stride = True

    @staticmethod
    def model_class():
        return kerasllm.models.CausalLM

    def config(self):
        config, teacher = super().config(), self._teacher
        if teacher is None:
            return config
        settings = self.settings
        for name in ("tokenizer", "label_smoothing"):
            if getattr(settings, name) != type(settings).__dataclass_fields__[name].default:
                raise ValueError(f"{name} does nothing beside teacher: leave it out.")
        if config.max_length > teacher[0].config.max_length:
            raise ValueError(
                f"max_length={config.max_length} is more than the {teacher[0].config.max_length} tokens that "
                f"{settings.teacher} takes."
            )
        return config

    def tokenizer(self):
        return self._teacher[1] if self._teacher else super().tokenizer()

    def fitted(self, config, tokenizer):
        if self._teacher is None:
            return super().fitted(config, tokenizer)
        return dataclasses.replace(config, vocab_size=self._teacher[0].config.vocab_size)

    def loss(self):
        if self._teacher is None:
            return super().loss()
        from kerasllm.losses import Distillation

        return Distillation(teacher=self._teacher[0], chunk_size=self.settings.loss_chunk or 256)

    @functools.cached_property
    def _teacher(self):
        """The pair (model, tokenizer) to learn from, or None."""
        if self.settings.teacher is None:
            return None
        dtype, _ = kerasllm.training.precision(self.settings.precision)
        model, tokenizer = kerasllm.load(self.settings.teacher, dtype)
        if not isinstance(model, self.model_class()):
            raise TypeError(f"A teacher is a causal model, and {self.settings.teacher} holds a {type(model).__name__}.")
        return model, tokenizer

    @staticmethod
    def make_dataset(*args, **options):
        return kerasllm.data.causal_lm_dataset(*args, **options)

    @staticmethod
    def score_corpus(model, tokenizer, corpus, stride=None):
        zipped = Zipped(corpus)
        scores = kerasllm.evaluation.perplexity(model, tokenizer, zipped, stride)
        return {**dataclasses.asdict(scores), "gzip_bits_per_byte": zipped.bits_per_byte()}

    @staticmethod
    def rows(figures):
        for name, label in _SCORES:
            if figures.get(name) is not None:
                yield label, f"{figures[name]:,.4f}" if figures[name] < 1e6 else f"{figures[name]:.3e}"
        yield "measured on", f"{figures['tokens']:,} tokens, {figures['bytes']:,} bytes"

    @staticmethod
    def served(model, tokenizer, text, **asked):
        from kerasllm.export import constrained, seeing_texts, signatures

        if text and isinstance(model, kerasllm.models.VisionLanguageModel):
            return seeing_texts.served(model, tokenizer, **asked)
        if asked.get("constraints"):
            return constrained.ConstrainedModel(model, tokenizer, **asked)
        return (signatures.ServedModel if text else signatures.ServedIds)(model, tokenizer, **asked)

    @staticmethod
    def compared(model, tokenizer, signatures):
        import tensorflow as tf

        from kerasllm.export import seeing_texts
        from kerasllm.generation.prompts import encode_prompt
        from kerasllm.generation.settings import rule_options

        if "generate_ids" not in signatures:
            return seeing_texts.compared(model, tokenizer, signatures)
        prompt = encode_prompt(tokenizer, {"text": SAMPLE})["token_ids"]
        length = min(MOST_SAMPLE_TOKENS, model.config.max_length - len(prompt))
        made = signatures["generate_ids"](
            token_ids=[prompt], prompt_lengths=tf.constant([len(prompt)]), **_greedy(length)
        )
        tokens = made["token_ids"][0, : int(made["lengths"][0])].numpy().tolist()
        if "generate" in signatures:
            _check_spelling(tokenizer, signatures["generate"], prompt, tokens)
        rules = rule_options(model, tokenizer.end_ids)
        ends = {"end_ids": tokenizer.end_ids, "vocab_size": tokenizer.vocab_size}
        return tokens, kerasllm.generation.generate_ids(model, [prompt], length, **ends, **rules)[0]


def _greedy(length):
    """The settings of a draw without chance, as the SavedModel takes them."""
    import tensorflow as tf

    settings = {"max_new_tokens": length, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    return {name: tf.constant(value) for name, value in settings.items()}


def _check_spelling(tokenizer, generate, prompt, tokens):
    """Refuses a SavedModel whose `generate` does not read and write text as the tokenizer does."""
    import tensorflow as tf

    from kerasllm.generation.text_stream import continuation

    made = generate(text=tf.constant([SAMPLE]), **_greedy(max(len(tokens), 1)))["text"][0].numpy().decode()
    expected = continuation(tokenizer, prompt, tokens)
    if made != expected:
        raise ValueError(
            f"The SavedModel does not read or write text as the tokenizer does: it continues {SAMPLE!r} with {made!r}, "
            f"where its own tokens {tokens} are {expected!r}."
        )
