"""What the SavedModel of a `Seq2SeqLM` answers: text in, its translation out, beam search inside.

Shapes: B batch, k beams, S source time, T target time, N tokens of a target, V vocab.
"""

import tensorflow as tf

from kerasllm.export.checks import check, fitting, traced_once
from kerasllm.generation.beam_search import blank_targets, search_targets, start_rule
from kerasllm.generation.settings import beam_settings
from kerasllm.generation.translation import Search, default_limits
from kerasllm.tokenizers.in_graph import InGraphTokenizer
from kerasllm.tokenizers.sides import Sides

# What `str.isspace` calls white space; RE2's own class has less.
_BLANK = r"[\t-\r\x1c-\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]*"


_TEXT = tf.TensorSpec((None,), tf.string, "text")
_SETTINGS = [
    tf.TensorSpec((), tf.int32, "num_beams"),
    tf.TensorSpec((), tf.float32, "length_penalty"),
    tf.TensorSpec((), tf.int32, "max_new_tokens"),
]


class ServedIds(tf.Module):
    """The function of a SavedModel that takes token ids; `kerasllm.export.saved_model` says what it returns.

    Args:
        model: a `Seq2SeqLM`.
    """

    SIGNATURES: tuple[str, ...] = ("forward",)

    def __init__(self, model):
        super().__init__()
        self.variables_of_model = [variable.value for variable in model.variables]
        self._max_length = model.config.max_length
        self._call = lambda inputs: model(inputs, training=False)
        self._sizes = (
            ("source_ids", model.config.source_vocab_size or model.config.vocab_size),
            ("target_ids", model.config.vocab_size),
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.int32, "source_ids"),
            tf.TensorSpec((None, None), tf.bool, "source_mask"),
            tf.TensorSpec((None, None), tf.int32, "target_ids"),
        ],
        autograph=False,
    )
    def forward(self, source_ids, source_mask, target_ids):
        inputs = {"source_ids": source_ids, "source_mask": source_mask, "target_ids": target_ids}
        checks = []
        for name, size in self._sizes:
            known = (inputs[name] >= 0) & (inputs[name] < size)
            checks.append(check(known, f"{name} must be at least 0 and less than {size}, the size of the vocabulary"))
            checks.append(check(tf.shape(inputs[name])[1] <= self._max_length, self._too_long))
        with tf.control_dependencies(checks):
            logits = self._call({name: tf.identity(value) for name, value in inputs.items()})
        return {"logits": tf.cast(logits, tf.float32)}

    @property
    def _too_long(self):
        return f"the text would be longer than the {self._max_length} tokens that the model takes"


class ServedTranslator(ServedIds):
    """This, and the functions that take text.

    Args:
        model: a `Seq2SeqLM`.
        tokenizer: its `Tokenizer`, or the pair (source, target).
    """

    SIGNATURES = ("serving_default", "translate", *ServedIds.SIGNATURES)

    def __init__(self, model, tokenizer):
        super().__init__(model)
        self._sides = Sides.of(tokenizer)
        self._source, self._target = map(InGraphTokenizer, self._sides)
        self._settings = settings = beam_settings(model, self._sides.end_id)
        self._search = lambda: Search.of(self._sides, model, settings)  # anew, as its tensors belong to one graph
        self._search_targets = lambda *arguments: search_targets(model, *arguments, settings.renormalises)
        self._translate = traced_once(self._best, _TEXT, *_SETTINGS)

    @tf.function(input_signature=[_TEXT], autograph=False)
    def serving_default(self, text):
        texts, _ = self._translate(text, self._settings.num_beams, self._settings.length_penalty, 0)
        return {"text": texts}

    @tf.function(input_signature=[_TEXT, *_SETTINGS], autograph=False)
    def translate(self, text, num_beams, length_penalty, max_new_tokens):
        checks = [
            check(num_beams >= 1, "num_beams must be at least 1"),
            check(max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            check(tf.math.is_finite(length_penalty), "length_penalty must be a finite number"),
        ]
        with tf.control_dependencies(checks):
            num_beams = tf.identity(num_beams)
        texts, scores = self._translate(text, num_beams, length_penalty, max_new_tokens)
        return {"text": texts, "score": scores}

    def _best(self, text, num_beams, length_penalty, most):
        """The best translations of at most so many tokens (0: as `translate` has it), and their scores, string and
        float32 (B,)."""
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        has_end = self._sides.ends_sources
        ids = self._source.encode(
            fitting(text, self._source.longest_token, self._max_length, self._too_long), bare=not has_end
        )
        if not has_end:
            ends = tf.fill([ids.nrows(), 1], self._sides.source.end_id)
            ids = tf.concat([ids, tf.cast(ends, tf.int32)], axis=1)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        with tf.control_dependencies([check(lengths <= self._max_length, self._too_long)]):
            source_ids = ids.to_tensor(self._sides.pad_id)
        limits = tf.where(most > 0, most, default_limits(lengths, self._settings))
        is_blank = tf.strings.regex_full_match(text, _BLANK)
        limits = tf.where(is_blank, 1, tf.minimum(limits, self._max_length))
        longest = tf.reduce_max(tf.concat([limits, [1]], axis=0))
        _, settings, rule = self._search()
        settings["length_penalty"] = length_penalty
        targets = blank_targets(tf.size(limits), num_beams, longest, settings)
        rule_state = start_rule(rule, targets, dict(self._sizes)["target_ids"])
        source_mask = tf.sequence_mask(lengths, tf.shape(source_ids)[1])
        tokens, scores = self._search_targets(source_ids, source_mask, targets, limits, settings, rule_state, rule)
        best = tokens[:, 0]
        before_end = tf.cast(tf.math.cumprod(tf.cast(best != settings["end_id"], tf.int32), axis=1), tf.bool)
        translations = self._target.decode(tf.ragged.boolean_mask(best, before_end))
        return tf.where(is_blank, "", translations), tf.where(is_blank, 0.0, scores[:, 0])
