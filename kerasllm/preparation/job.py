"""What is to be done with a corpus: one value, which goes to every process that works on it."""

from dataclasses import dataclass, field

from kerasllm.data.cleaning import clean
from kerasllm.data.decontamination import decontaminate
from kerasllm.data.filtering import Report
from kerasllm.data.languages import keep_languages
from kerasllm.tokenizers import Tokenizer

DEDUPLICATE = "deduplicate"
NO_TEXT = "records_without_text"


@dataclass(frozen=True)
class Job:
    """What is to be done, and with what.

    Attributes:
        groups: list of lists of `sources.Part`, which add the place of each record without text to `left_out`.
        tokenizer: `Tokenizer`.
        num_shards: int.
        clean: names of rules and groups of `data.clean`.
        deduplicate: bool.
        held_out: tuple of str, texts that no document may share a run of words with.
        languages: tuple of str, those of the documents that stay; none for all.
        left_out: list that the parts add to.
    """

    groups: list
    tokenizer: Tokenizer
    num_shards: int
    clean: tuple = ()
    deduplicate: bool = False
    held_out: tuple = ()
    languages: tuple = ()
    left_out: list = field(default_factory=list)


class DocumentRules:
    """The rules of a job that look at a document alone, and the report of what they did.

    Args:
        job: `Job`.
    """

    def __init__(self, job):
        filters = {}
        if job.clean:
            filters["clean"] = clean((), job.clean)
        if job.languages:
            filters["languages"] = keep_languages((), job.languages)
        if job.held_out:
            filters["decontaminate"] = decontaminate((), job.held_out)
        self._job, self._rules = job, {name: one.rules for name, one in filters.items()}
        self._filters = {name: one.new_filter() for name, one in filters.items()}

    def apply(self, documents):
        """Returns what became of documents: the places (int) and texts of those that stay, and the report, a dict."""
        reports = {name: Report(rules) for name, rules in self._rules.items()}
        places, texts = [], []
        for place, text in enumerate(documents):
            for name, outcome_of in self._filters.items():
                outcome = outcome_of(text)
                reports[name].add(text, outcome)
                text = outcome.text
                if text is None:
                    break
            else:
                places.append(place)
                texts.append(text)
        counts = {NO_TEXT: len(self._job.left_out), **{name: one.to_dict() for name, one in reports.items()}}
        self._job.left_out.clear()
        return places, texts, counts


def added(reports):
    """The sum of reports, dicts of int and of such dicts."""
    total = {}
    for report in reports:
        for name, value in report.items():
            if isinstance(value, dict):
                total[name] = added([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total
