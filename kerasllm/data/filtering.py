"""Documents that pass through a filter as they are read, and the report of what became of them.

`clean` and `deduplicate` return `FilteredDocuments`; what they filter by is in cleaning.py and deduplication.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kerasllm.files import check_documents

_REMOVED, _CHANGED, _QUIET = "#d1662b", "#2f6db3", "#8a8f98"


class Outcome(NamedTuple):
    """What a filter makes of a document: the text to go on with, or None and the rule that removed it."""

    text: str | None
    changed_by: tuple = ()
    removed_by: str | None = None


class FilteredDocuments:
    """The documents that a filter lets through, one after the other. Each iteration reads and filters them anew.

    Args:
        documents: iterable of str. One that is no iterator can be iterated over again and again.
        rules: the names of the filter's rules, in the order in which they apply.
        new_filter: function without arguments that returns a filter, a function from a document to its `Outcome`.

    Attributes:
        report: `Report` of the latest iteration, up to where that has come.
        rules, new_filter: as given.

    Raises:
        TypeError: where documents is no iterable of str.
        ValueError: where an iterator is to be read a second time.
    """

    def __init__(self, documents, rules, new_filter):
        check_documents("documents", documents)
        self._documents, self.rules, self.new_filter = documents, tuple(rules), new_filter
        self._used_up = False
        self.report = Report(self.rules)

    def __iter__(self):
        if self._used_up:
            raise ValueError(
                "The documents came from an iterator, which can be read only once: keep them in a list, or make the "
                "iterator anew."
            )
        self._used_up = isinstance(self._documents, Iterator)
        self.report = Report(self.rules)
        return self._filtered(self.report)

    def _filtered(self, report):
        outcome_of = self.new_filter()
        for document in self._documents:
            if not isinstance(document, str):
                raise TypeError(f"Document {report.seen} is {type(document).__name__}, not str: {document!r:.60}.")
            outcome = outcome_of(document)
            report.add(document, outcome)
            if outcome.text is not None:
                yield outcome.text


class Report:
    """What became of documents: `str(report)` is a table, `to_dict` a dict for JSON, `plot` a figure.

    Attributes:
        seen, kept: int, documents.
        seen_characters, kept_characters: int, before and after.
        removed: dict of rule and number of documents. Each document is removed by one rule, the first that objects, so
            that seen = kept + sum(removed.values()).
        changed: dict of rule and number of documents. Several rules can change a document, a removed one too.
    """

    def __init__(self, rules):
        self.seen = self.kept = self.seen_characters = self.kept_characters = 0
        self.removed, self.changed = dict.fromkeys(rules, 0), dict.fromkeys(rules, 0)

    def add(self, document, outcome):
        """Counts a document and its `Outcome`."""
        self.seen += 1
        self.seen_characters += len(document)
        for rule in outcome.changed_by:
            self.changed[rule] += 1
        if outcome.text is None:
            self.removed[outcome.removed_by] += 1
        else:
            self.kept += 1
            self.kept_characters += len(outcome.text)

    def to_dict(self):
        """Returns all counts, as a dict of str, int and dicts of those."""
        counts = {name: getattr(self, name) for name in ("seen", "kept", "seen_characters", "kept_characters")}
        return {**counts, "removed": dict(self.removed), "changed": dict(self.changed)}

    def __str__(self):
        width = max(map(len, [*self.removed, "characters kept"]))
        lines = [f"{'rule':<{width}}  {'removed':>15}  {'changed':>15}"]
        lines += [f"{rule:<{width}}  {n:>15,}  {self.changed[rule]:>15,}" for rule, n in self.removed.items()]
        lines.append(f"{'':<{width}}  {'seen':>15}  {'kept':>15}")
        for what, seen, kept in (
            ("documents", self.seen, self.kept),
            ("characters", self.seen_characters, self.kept_characters),
        ):
            lines.append(f"{what:<{width}}  {seen:>15,}  {kept:>15,}  {kept / max(seen, 1):7.1%}")
        return "\n".join(lines)

    def plot(self):
        """Draws for each rule how many documents it removed and changed.

        Returns:
            A new `matplotlib.figure.Figure` with a canvas of its own: the backend that pyplot uses, and its open
            figures, are left alone.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = len(self.removed)
        figure = Figure(figsize=(8, 1.4 + 0.34 * rows), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for counts, name, color, side in (
            (self.removed, "removed", _REMOVED, -0.2),
            (self.changed, "changed", _CHANGED, 0.2),
        ):
            bars = axes.barh([row + side for row in range(rows)], counts.values(), 0.38, color=color, label=name)
            axes.bar_label(bars, [f"{n:,}" if n else "" for n in counts.values()], padding=3, fontsize=8)
        axes.set_yticks(range(rows), [rule.replace("_", " ") for rule in self.removed])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max([*self.removed.values(), *self.changed.values(), 1]))
        axes.set_xlabel("documents")
        axes.set_title(f"{self.kept:,} of {self.seen:,} documents kept", fontsize=11)
        axes.legend(frameon=False, labelcolor="#33373d", loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_QUIET)
        axes.tick_params(color=_QUIET, labelsize=9)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="x", color="#e8eaed", linewidth=0.8)
        axes.set_axisbelow(True)
        return figure
