"""What a SavedModel answers whose texts may be held to expressions, choices and JSON schemas: see signatures.py.

Shapes: B batch.
"""

import functools

import tensorflow as tf

from kerasllm.export.checks import check, traced_once
from kerasllm.export.signatures import DRAW, RAGGED_IDS, TEXT, ServedModel
from kerasllm.generation.constraints.asked import FINISHES, make_constraint, schema_table
from kerasllm.generation.constraints.tables import NO_LIMIT, FollowsTables, join
from kerasllm.generation.constraints.vocabulary import token_bytes
from kerasllm.generation.rules import InOrder

_HELD = [tf.TensorSpec((), tf.string, "constraint"), tf.TensorSpec((), tf.string, "finish")]


class ConstrainedModel(ServedModel):
    """The functions of a `ServedModel`, and one whose texts are held to what a name stands for.

    Args:
        model, tokenizer, **asked: see `ServedIds`.
        constraints: dict from names to regular expressions (str), choices (list of str) or JSON schemas (dict).
    """

    SIGNATURES = (*ServedModel.SIGNATURES, "constrained")

    def __init__(self, model, tokenizer, constraints, **asked):
        super().__init__(model, tokenizer, **asked)
        tables = [read_constraint(name, value, tokenizer).table for name, value in constraints.items()]
        tokens, first = token_bytes(tokenizer)
        self._first_differs = tokens != first
        self._names = tf.constant(list(constraints))
        self._joined = join(tables, tokenizer.end_ids, self._vocab_size)
        self._fewest = tf.constant([table.fewest_tokens for table in tables])
        held = [tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.bool)]
        draw = functools.partial(self._checked_draw, ("which", "must_end"))
        self._draw_held = traced_once(draw, RAGGED_IDS, *DRAW, *held)

    @tf.function(
        input_signature=[
            TEXT,
            *DRAW,
            tf.TensorSpec((), tf.string, "constraint"),
            tf.TensorSpec((), tf.string, "finish"),
        ],
        autograph=False,
    )
    def constrained(self, text, max_new_tokens, temperature, top_k, top_p, seed, constraint, finish):
        is_it = self._names == constraint
        which, must_end = tf.argmax(is_it, output_type=tf.int32), finish == FINISHES[1]
        checks = [
            check(tf.reduce_any(is_it), "constraint must be one of those that the model was exported with"),
            check(must_end | (finish == FINISHES[0]), "finish must be length or valid"),
            check(~must_end | (max_new_tokens >= self._fewest[which]), "max_new_tokens is too few for the constraint"),
        ]
        if self._first_differs:
            checks.append(check(tf.strings.length(text) > 0, "a text that is held to a constraint has a prompt"))
        with tf.control_dependencies(checks):
            prompts = self._encode(text)
        new, ended = self._draw_held(prompts, max_new_tokens, temperature, top_k, top_p, seed, which, must_end)
        return self._answers(prompts, new, ended)

    def _rule_of(self, settings):
        rule = super()._rule_of(settings)
        if "which" not in settings:
            return rule
        limits = tf.where(settings["must_end"], settings["limits"], NO_LIMIT)
        return InOrder((*rule.rules, FollowsTables(self._joined, settings["which"], limits)))


def read_constraint(name, value, tokenizer):
    """A `TableConstraint`.

    Raises:
        TypeError, ValueError: if it is neither a regular expression nor choices, nor a schema that is one, or no text
            can be it.
    """
    if isinstance(value, dict):
        if (table := schema_table(value, tokenizer)) is None:
            raise ValueError(
                f"Of `constraints`, {name!r}: a graph follows JSON schemas that are regular expressions, of objects "
                f"without further properties, arrays, strings, numbers and enums, none in itself; got {value!r:.80}."
            )
        return table
    kind = "choices" if isinstance(value, list | tuple) else "regex"
    try:
        return make_constraint(kind, value, tokenizer)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Of `constraints`, {name!r}: {error}") from None
