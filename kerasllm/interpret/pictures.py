"""Pictures of what is found: each as a figure of matplotlib (figures.py), and as HTML that needs nothing from elsewhere
(fragments.py)."""

from pathlib import Path

from kerasllm.files import replacing
from kerasllm.interpret import figures, fragments


class Picture:
    """What can be looked at: in a notebook by itself, by `figure` and `html`, and in a file by `save`.

    Subclasses say by `_drawing` what there is to see, one of the classes below.
    """

    def figure(self):
        """A `matplotlib.figure.Figure`."""
        return figures.draw(self._drawing())

    def html(self):
        """A piece of HTML with its style."""
        return fragments.styled(fragments.draw(self._drawing()))

    def _repr_html_(self):
        return self.html()

    def save(self, path):
        """Writes the picture into a file.

        Args:
            path: ends in .html for a page, or in .png, .svg or .pdf.

        Raises:
            ValueError: for another ending.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in ("html", "png", "svg", "pdf"):
            raise ValueError(f"Pictures are saved as .html, .png, .svg or .pdf, got {str(path)!r}.")
        with replacing(path) as draft:
            if kind == "html":
                draft.write_text(fragments.page(type(self).__name__, [("", self.html())]), encoding="utf-8")
            else:
                self.figure().savefig(draft, format=kind, dpi=150, facecolor="white")
