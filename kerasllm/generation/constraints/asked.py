"""What a caller asks texts to be: options of `generate` and the like, read for a tokenizer."""

import json
from collections.abc import Mapping

from kerasllm.generation.constraints.grammars import GrammarConstraint
from kerasllm.generation.constraints.schema_patterns import schema_pattern
from kerasllm.generation.constraints.tables import TableConstraint

KINDS_OF_CONSTRAINT = ("regex", "choices", "json_schema", "grammar")
OPTIONS = (*KINDS_OF_CONSTRAINT, "finish")
FINISHES = ("length", "valid")


def take_constraint(options, tokenizer):
    """Takes the options of a constraint out of a dict of options: a constraint, or None where they ask for none.

    Raises:
        TypeError, ValueError: if they are none, ask for two things, or for what no text can be; the message says what.
        ImportError: where the package that reads them is not installed.
    """
    asked = {name: options.pop(name) for name in KINDS_OF_CONSTRAINT if options.get(name) is not None}
    finish = options.pop("finish", None)
    for name in KINDS_OF_CONSTRAINT:
        options.pop(name, None)
    if len(asked) > 1:
        raise ValueError(f"A text is held to one of {', '.join(KINDS_OF_CONSTRAINT)}, got {' and '.join(asked)}.")
    if finish not in (None, *FINISHES):
        raise ValueError(f"`finish` is 'length' or 'valid', got {finish!r:.80}.")
    if not asked:
        if finish is not None:
            raise ValueError(f"`finish` goes with one of {', '.join(KINDS_OF_CONSTRAINT)}: leave it out.")
        return None
    ((kind, value),) = asked.items()
    if kind == "json_schema" and (table := schema_table(value, tokenizer, finish == "valid")) is not None:
        return table
    return make_constraint(kind, value, tokenizer, finish == "valid")


def make_constraint(kind, value, tokenizer, must_end=False):
    """A constraint.

    Args:
        kind: one of `KINDS_OF_CONSTRAINT`.
        value: see `generate`.
        tokenizer: Tokenizer.
        must_end: bool, whether texts are to end as they should within their limit.
    """
    if kind in ("regex", "choices"):
        return TableConstraint(kind, _read_choices(value) if kind == "choices" else value, tokenizer, must_end)
    return GrammarConstraint(kind, _read_schema(value) if kind == "json_schema" else value, tokenizer, must_end)


def schema_table(schema, tokenizer, must_end=False):
    """The `TableConstraint` of a JSON schema that is a regular expression, which a loop follows by itself; or None.

    Raises:
        TypeError, ValueError: if it is no schema.
    """
    pattern = schema_pattern(json.loads(_read_schema(schema)))
    try:
        return None if pattern is None else TableConstraint("json_schema", pattern, tokenizer, must_end)
    except (ImportError, ValueError):  # of what this vocabulary cannot write, llguidance says more
        return None


def _read_choices(choices):
    if isinstance(choices, str | bytes | Mapping) or not hasattr(choices, "__iter__"):
        raise TypeError(f"`choices` is a list of str, got {type(choices).__name__}.")
    choices = tuple(choices)
    if not choices or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"`choices` is a list of one or more str, got {list(choices)!r:.80}.")
    return choices


def _read_schema(schema):
    """JSON of a schema, given as a dict, as JSON or as a class of Pydantic's."""
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"`json_schema` is no JSON: {error}.") from None
    if not isinstance(schema, Mapping):
        raise TypeError(f"`json_schema` is a dict, or JSON of one, got {type(schema).__name__}.")
    return json.dumps(schema, ensure_ascii=False)
