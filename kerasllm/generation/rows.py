"""The texts of a running batch: how each is continued, where it stands and what it has drawn."""

import dataclasses

from kerasllm.generation.loop import NO_TOKEN
from kerasllm.generation.samplers import Sampler


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """How one text is continued.

    Args:
        max_new_tokens: int.
        sampler: Sampler.
        seed: int or None. The same seed draws what `generate` draws for the prompt alone.
        end_ids: tuple of int, which end the text.
        repetition_penalty: float or None, that of the model's settings: see `standard_rules.Rules`.
        reports: bool, whether log-probabilities are wanted.
        constraint: a `GrammarConstraint`, which holds the text to a JSON schema or a grammar, or None.
    """

    max_new_tokens: int
    sampler: Sampler = dataclasses.field(default_factory=Sampler)
    seed: int | None = None
    end_ids: tuple = ()
    repetition_penalty: float | None = None
    reports: bool = False
    constraint: object = None


@dataclasses.dataclass
class Drawn:
    """What a row has drawn in a few steps.

    Attributes:
        ids: list of int, without the end token.
        has_ended: bool, and `by_end_token` whether by an end token.
        is_finite: bool, False where the model's logits were not.
        failure: str or None, why a grammar could not be followed any more.
        reports: for each id its log-probability, and the ids and log-probabilities of the likeliest; or [].
    """

    ids: list
    has_ended: bool = False
    by_end_token: bool = False
    is_finite: bool = True
    failure: str | None = None
    reports: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Row:
    """A text in the batch.

    Attributes:
        settings: RowSettings.
        ids: list of int, all of the text, of which the last is not read yet.
        number: int, its row now.
        begin: int, the place of its first token on the clock.
        drawn: int, how many of the ids are drawn.
        done: bool.
        guided: a `GuidedText`, where the text is held to a grammar, or None.
        names: list of int, by which the prompt is known again: see `running_batch.Reading`.
    """

    settings: RowSettings
    ids: list
    number: int
    begin: int
    drawn: int = 0
    done: bool = False
    guided: object = None
    names: list = dataclasses.field(default_factory=list)


def newly_drawn(row, ids, *reported):
    """The `Drawn` of a row, of new ids and, where they are reported, what is."""
    is_finite, end_ids = NO_TOKEN not in ids, row.settings.end_ids
    end = next((place for place, token in enumerate(ids) if token in end_ids or token == NO_TOKEN), None)
    reports = list(zip(*reported, strict=True))[:end] if row.settings.reports else []
    by_end_token = end is not None and is_finite
    failure = row.guided and row.guided.failure
    return Drawn(ids[:end], row.done or end is not None, by_end_token, is_finite, failure, reports)
