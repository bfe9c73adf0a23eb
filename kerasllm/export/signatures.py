"""What a SavedModel answers: text or token ids in, text, token ids or logits out.

Shapes: B batch, T prompt, N new tokens, V vocab.
"""

import functools

import tensorflow as tf

from kerasllm import backend
from kerasllm.export.checks import check, fitting, traced_once
from kerasllm.export.steered import Steering
from kerasllm.generation.buffers import DEFAULT_NEW_TOKENS, SMALLEST_BUCKET
from kerasllm.generation.causality import check_causal
from kerasllm.generation.loop import NO_TOKEN, decode, prefill
from kerasllm.generation.own_rules import with_rules
from kerasllm.generation.precision import in_float32
from kerasllm.generation.samplers import KNOWN_WHEN_RUN, Sampler
from kerasllm.generation.settings import rule_options
from kerasllm.generation.standard_rules import Rules
from kerasllm.generation.stepping import get_stepper
from kerasllm.models.shapes import built_length, context_length, output_width
from kerasllm.tokenizers.in_graph import InGraphTokenizer

LONGEST_TEXT = 4096  # Tokens of prompt and continuation, where the model sets no limit: attention costs their square.

TEXT = tf.TensorSpec((None,), tf.string, "text")
RAGGED_IDS = tf.RaggedTensorSpec((None, None), tf.int32)
_TOKEN_IDS = tf.TensorSpec((None, None), tf.int32, "token_ids")
_LENGTHS = tf.TensorSpec((None,), tf.int32, "prompt_lengths")
DRAW = [
    tf.TensorSpec((), tf.int32, "max_new_tokens"),
    tf.TensorSpec((), tf.float32, "temperature"),
    tf.TensorSpec((), tf.int32, "top_k"),
    tf.TensorSpec((), tf.float32, "top_p"),
    tf.TensorSpec((), tf.int32, "seed"),
]


def _compiled(write):
    """`ServedIds._written`, compiled by XLA; for one text apart, of which it can make quicker products."""
    by_xla = backend.by_xla(write)

    def call(prompts, padding, room, most, settings):
        def first_of(numbers):
            return tf.concat([numbers, [0]], axis=0)[0][None]

        def of_one():  # ops that fail for no number of texts, as a graph may run them where they are not asked for
            limits = first_of(settings["limits"])
            return by_xla(tf.reshape(prompts, (1, -1)), first_of(padding), room, most, {**settings, "limits": limits})

        return tf.cond(tf.size(padding) == 1, of_one, lambda: by_xla(prompts, padding, room, most, settings))

    return call


class ServedIds(tf.Module):
    """The functions of a SavedModel that take token ids; `kerasllm.export.saved_model` says what they return.

    Args:
        model: a causal Keras model from ids (B, T) to logits (B, T, V).
        tokenizer: its `Tokenizer`, which says where texts end.
        compiled: bool. XLA compiles the loop, in the runtime.
        watermark: see `kerasllm.generate`.
        steering: from `steered.read_steering`.
    """

    SIGNATURES: tuple[str, ...] = ("generate_ids", "forward")

    def __init__(self, model, tokenizer, compiled=False, watermark=None, steering=None):
        super().__init__()
        check_causal(model)
        self.variables_of_model = [variable.value for variable in model.variables]
        self._call = lambda token_ids: model(token_ids, training=False)
        self._stepper = get_stepper(model)
        self._max_length = context_length(model)
        self._longest = self._max_length or LONGEST_TEXT
        self._learned = self._max_length or built_length(model) or LONGEST_TEXT
        self._vocab_size = output_width(model)
        rules = Rules(**rule_options(model, tokenizer.end_ids))
        own = with_rules({"watermark": watermark}, model, tokenizer).get("rules", ())
        self._rule = rules.as_rule(tokenizer.end_ids, tokenizer.vocab_size, own)
        self._end_ids = tokenizer.end_ids or [-1]
        self._compiled = compiled
        in_16_bits = compiled and backend.on_cpu()  # as in Python's loop
        self._written = in_float32(model, self._written_by) if in_16_bits else self._written_by
        self._steering = Steering(model, steering or {})
        draw = functools.partial(self._checked_draw, self._steering.names)
        self._draw = traced_once(draw, RAGGED_IDS, *DRAW, *self._steering.specs)
        self.generate_ids = self._drawing(self._generate_ids, _TOKEN_IDS, _LENGTHS)

    def _drawing(self, function, *inputs):
        """A function of inputs, the settings of a draw and strengths of what steers it, as a signature."""
        signature = [*inputs, *DRAW, *self._steering.specs]
        return tf.function(function, input_signature=signature, autograph=False)

    def _generate_ids(self, token_ids, prompt_lengths, *settings):
        checks = [
            *self._check_ids(token_ids),
            check(prompt_lengths >= 1, "prompt_lengths must be at least 1"),
            check(prompt_lengths <= tf.shape(token_ids)[1], "prompt_lengths must be at most the width of token_ids"),
        ]
        with tf.control_dependencies(checks):
            prompts = tf.RaggedTensor.from_tensor(token_ids, tf.cast(prompt_lengths, tf.int64))
        new, _ = self._draw(prompts, *settings)
        return {"token_ids": new.to_tensor(0), "lengths": tf.cast(new.row_lengths(), tf.int32)}

    @tf.function(input_signature=[_TOKEN_IDS], autograph=False)
    def forward(self, token_ids):
        checks = self._check_ids(token_ids)
        if self._max_length is not None:
            checks.append(check(tf.shape(token_ids)[1] <= self._max_length, self._too_long))
        with tf.control_dependencies(checks):
            logits = self._call(tf.identity(token_ids))
        return {"logits": tf.cast(logits, tf.float32)}

    def _checked_draw(self, names, prompts, max_new_tokens, temperature, top_k, top_p, seed, *more):
        """Continues prompts by `max_new_tokens`, as `_continue` does, with every setting checked; further ones have
        these names, and are known to `_written_by` and `_rule_of`."""
        checks = [
            check(max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            check(max_new_tokens <= self._longest - tf.cast(prompts.row_lengths(), tf.int32), self._too_long),
            check(temperature >= 0, "temperature must be at least 0"),
            check(top_k >= 0, "top_k must be at least 0"),
            check((top_p > 0) & (top_p <= 1), "top_p must be more than 0 and at most 1"),
        ]
        with tf.control_dependencies(checks):
            limits = tf.fill([prompts.nrows(tf.int32)], max_new_tokens)
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": tf.constant(0.0)}
        settings |= dict(zip(names, more, strict=True))
        settings["seed"] = tf.bitwise.bitwise_and(seed, 2**31 - 1)  # as Python's `seed % 2**31`
        return self._continue(prompts, limits, KNOWN_WHEN_RUN, settings)

    def _continue(self, prompts, limits, sampler_key, settings):
        """Draws tokens until each row has ended or reached its limit.

        Args:
            prompts: RaggedTensor of int32 (B, None).
            limits: int32 (B,), the most new tokens of each row.
            sampler_key: the `graph_key` of a `Sampler`.
            settings: its settings, and the seed.

        Returns:
            new tokens, RaggedTensor of int32 (B, None), and which rows ended with an end token, bool (B,).
        """
        lengths = tf.cast(prompts.row_lengths(), tf.int32)
        with tf.control_dependencies([check(lengths + limits <= self._longest, self._too_long)]):
            T = tf.reduce_max(tf.concat([lengths, [1]], axis=0))
        most = room = tf.reduce_max(tf.concat([limits, [1]], axis=0))
        write = functools.partial(self._written, sampler_key)
        if self._compiled:
            T, room = self._buckets(T, most)
            write = _compiled(write)
        tokens = prompts.to_tensor(0, shape=(None, None))
        tokens = tf.pad(tokens, [[0, 0], [0, T - tf.shape(tokens)[1]]])
        padding = T - lengths
        tokens = tf.gather(tokens, (tf.range(T)[None] - padding[:, None]) % T, batch_dims=1)  # to the right
        settings = {**settings, "limits": limits, "end_ids": tf.constant(self._end_ids)}
        index, tokens = write(tokens, padding, tf.zeros([room], tf.int32), most, settings)
        with tf.control_dependencies([check(tokens != NO_TOKEN, "the logits of the model are not finite")]):
            new = tokens[:, T:index]
        drawn = tf.sequence_mask(limits, tf.shape(new)[1])
        is_text = tf.reduce_all(new[:, :, None] != settings["end_ids"], axis=-1)
        before_end = drawn & tf.cast(tf.math.cumprod(tf.cast(is_text, tf.int32), axis=1), tf.bool)
        ended = tf.reduce_any(drawn & ~before_end, axis=1)
        return tf.ragged.boolean_mask(new, before_end), ended

    def _written_by(self, sampler_key, prompts, padding, room, most, settings):
        """The index after the last new token, and prompts with the new tokens behind them, int32 (B, P + R).

        Args:
            sampler_key: see `_continue`.
            prompts: int32 (B, P).
            padding: int32 (B,), places to the left of each prompt.
            room: zeros (R,): XLA knows shapes, and no values.
            most: int scalar, the most new tokens, up to R.
            settings: of the sampler and of `decode`, but for "start"; and as "inputs" a dict of what else the model
                reads with the prompts.
        """
        P = tf.shape(prompts)[1]
        tokens = tf.pad(prompts, [[0, 0], [0, tf.shape(room)[0]]])
        inputs = settings.get("inputs", {})
        settings = {**{name: value for name, value in settings.items() if name != "inputs"}, "start": P}
        places = tf.range(tf.shape(tokens)[1])[None]
        is_prompt = (places >= padding[:, None]) & (places < P)
        rule = self._rule_of(settings)
        rule_state = rule.start(tokens, is_prompt, self._vocab_size)
        settings["tables"] = rule.tables(self._vocab_size)
        how = self._stepper, sampler_key, rule
        done = tf.zeros_like(padding, tf.bool)
        with self._steering.within(settings):
            first = prefill(*how, P, 0, tokens, done, rule_state, padding, inputs, settings)
            index, tokens, *_ = decode(*how, *first, padding, {}, P + most, settings)
        return index, tokens

    def _rule_of(self, settings):
        """What rules the logits."""
        return self._rule

    def _buckets(self, prompt_length, new_tokens):
        """Both rounded up as `buffers.buffer_lengths` does, so that the loop is seldom compiled anew."""
        sizes = [SMALLEST_BUCKET]
        while sizes[-1] < self._longest:
            sizes.append(2 * sizes[-1])
        P = tf.reduce_min(tf.boolean_mask(sizes, tf.constant(sizes) >= prompt_length))
        return tf.maximum(prompt_length, tf.minimum(P, self._longest)), -(-new_tokens // 64) * 64

    def _check_ids(self, token_ids):
        size = self._vocab_size
        return [
            check(token_ids >= 0, "token_ids must not be negative"),
            check(token_ids < size, f"token_ids must be less than {size}, the size of the vocabulary"),
        ]

    @property
    def _too_long(self):
        return f"the text would be longer than the {self._longest} tokens that the model takes"


class ServedModel(ServedIds):
    """These, and the functions that take text.

    Args:
        model, tokenizer, **asked: see `ServedIds`.
    """

    SIGNATURES = ("serving_default", "generate", *ServedIds.SIGNATURES)

    def __init__(self, model, tokenizer, **asked):
        super().__init__(model, tokenizer, **asked)
        self._in_graph = InGraphTokenizer(tokenizer)
        self._begin_id = tokenizer.start_id if tokenizer.end_id is None else tokenizer.end_id
        self._encode = traced_once(self._prompts, TEXT)
        self._continuation = traced_once(self._in_graph.continuation, RAGGED_IDS, RAGGED_IDS)
        self.generate = self._drawing(self._generate, TEXT)

    @tf.function(input_signature=[TEXT], autograph=False)
    def serving_default(self, text):
        prompts = self._encode(text)
        lengths = tf.cast(prompts.row_lengths(), tf.int32)
        limits = tf.minimum(tf.maximum(self._learned - lengths, 1), DEFAULT_NEW_TOKENS)
        greedy = Sampler(temperature=0.0)
        new, _ = self._continue(prompts, limits, greedy.graph_key, {**greedy.settings(), "seed": tf.constant(0)})
        return {"text": self._continuation(prompts, new)}

    def _generate(self, text, *settings):
        prompts = self._encode(text)
        return self._answers(prompts, *self._draw(prompts, *settings))

    def _answers(self, prompts, new, ended):
        return {
            "text": self._continuation(prompts, new),
            "tokens": tf.cast(new.row_lengths(), tf.int32),
            "finish_reason": tf.where(ended, "stop", "length"),
        }

    def _prompts(self, text):
        """The ids of prompts, RaggedTensor (B, None); an empty one begins after a document's end."""
        ids = self._in_graph.encode(fitting(text, self._in_graph.longest_token, self._longest, self._too_long))
        empty = ids.row_lengths() == 0
        if self._begin_id is None:
            message = "the text is empty, and the tokenizer has no end or start token to begin with"
            with tf.control_dependencies([check(~empty, message)]):
                return tf.identity(ids)
        begins = tf.fill([tf.math.count_nonzero(empty)], self._begin_id)
        return tf.concat([tf.RaggedTensor.from_row_lengths(begins, tf.cast(empty, tf.int64)), ids], axis=1)
