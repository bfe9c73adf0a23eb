"""Pictures as figures of matplotlib."""

import functools

import numpy as np

from kerasllm.interpret import colours
from kerasllm.interpret.drawings import AttentionView, Bars, ColouredText, HeatMap, HeatMaps, OnImage

_FONT = "DejaVu Sans"  # which comes with matplotlib
_CELL, _WORD = 0.24, 0.75  # inches, of a cell without and with a word
_WIDEST = 24.0


def draw(drawing):
    """A `matplotlib.figure.Figure` of one of the classes of `drawings`.

    It has a canvas of its own: the backend that pyplot uses, and its open figures, are left alone.
    """
    return _WAYS[type(drawing)](drawing)


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, _WIDEST), min(height, _WIDEST)), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _heat_map(drawing):
    return _heat_maps(HeatMaps([drawing]))


def _heat_maps(drawing):
    sizes = []
    for one in drawing.maps:
        cell = _WORD if one.texts else _CELL
        sizes.append((max(cell * len(one.columns), 0.6), _CELL * len(one.rows)))
    longest = max(max(map(len, one.rows), default=0) for one in drawing.maps)
    figure = _figure(
        sum(width for width, _ in sizes) + 0.09 * longest * len(sizes) + 0.6, max(h for _, h in sizes) + 1.3
    )
    all_axes = figure.subplots(1, len(sizes), squeeze=False, width_ratios=[width for width, _ in sizes])[0]
    for axes, one in zip(all_axes, drawing.maps, strict=True):
        _fill(axes, one)
    return figure


def _fill(axes, one):
    shares = one.shares
    axes.imshow(colours.on_white(shares), aspect="auto", interpolation="nearest")
    _label(axes.set_xticks, one.columns, rotation=0 if one.texts else 90)
    _label(axes.set_yticks, one.rows)
    axes.tick_params(length=0, labelsize=7)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    if one.title:
        axes.set_xlabel(one.title, fontsize=8)
    for row, words in enumerate(one.texts or ()):
        for column, word in enumerate(words):
            colour = "white" if abs(shares[row, column]) > colours.DARK else "black"
            word, font = _in_fonts(_shortened(word))
            axes.text(column, row, word, ha="center", va="center", fontsize=7, color=colour, fontfamily=font)


def _label(set_ticks, words, **options):
    """Ticks with words in fonts that have their letters."""
    drawn = [_in_fonts(word) for word in words]
    ticks = set_ticks(range(len(words)), [word for word, _ in drawn], **options)
    for tick, (_, font) in zip(ticks, drawn, strict=True):
        tick.label1.set_fontfamily(font)
        tick.label2.set_fontfamily(font)


def _shortened(word, most=10):
    return word if len(word) <= most else word[: most - 1] + "…"


def _bars(drawing):
    figure = _figure(7, 0.24 * len(drawing.pairs) + 0.8)
    axes = figure.subplots()
    values = [value for _, value in drawing.pairs]
    ink = [np.array(colours.NEGATIVE if value < 0 else colours.POSITIVE) / 255 for value in values]
    axes.barh(range(len(values)), values, color=ink)
    axes.set_yticks(range(len(values)), [name for name, _ in drawing.pairs], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel(drawing.title, fontsize=8)
    return figure


def _coloured_text(drawing):
    maps = HeatMap(drawing.values, drawing.rows, drawing.tokens, None, True, drawing.title)
    figure = _heat_map(maps)
    return figure


def _attention(drawing):
    if drawing.head is not None:
        (one,) = drawing.maps
        title = f"{one.name}, head {drawing.head}: rows look at columns"
        return _heat_map(HeatMap(one.probabilities[drawing.head], one.queries, one.keys, title=title))
    H = max(len(one.probabilities) for one in drawing.maps)
    figure = _figure(1.1 * H + 1.2, 1.1 * len(drawing.maps) + 0.4)
    grid = figure.subplots(len(drawing.maps), H, squeeze=False)
    for row, one in zip(grid, drawing.maps, strict=True):
        row[0].set_ylabel(one.name, fontsize=7, rotation=0, ha="right", va="center")
        for head, axes in enumerate(row):
            axes.set_xticks([])
            axes.set_yticks([])
            if head < len(one.probabilities):
                axes.imshow(colours.on_white(np.sqrt(one.probabilities[head])), aspect="auto", interpolation="nearest")
                axes.set_title(str(head), fontsize=7, pad=2)
            else:
                axes.set_axis_off()
    return figure


def _on_image(drawing):
    height, width = drawing.image.shape[:2]
    columns = 1 + len(drawing.maps[0])
    figure = _figure(3.2 * columns, (3.2 * height / width + 0.5) * len(drawing.maps))
    for row, maps in zip(figure.subplots(len(drawing.maps), columns, squeeze=False), drawing.maps, strict=True):
        drawn = [("", drawing.image), *((title, drawing.drawn(values)) for title, values in maps)]
        for axes, (title, pixels) in zip(row, drawn, strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_axis_off()
            title, font = _in_fonts(title)
            axes.set_title(title, fontsize=7, fontfamily=font)
    return figure


def _in_fonts(text):
    """A text and the families of installed fonts that have its letters; one that none has is shown by its number."""
    families = {letter: _family_with(letter) for letter in text}
    shown = "".join(letter if families[letter] else f"U+{ord(letter):04X}" for letter in text)
    return shown.replace("$", r"\$"), list(dict.fromkeys([_FONT, *filter(None, families.values())]))


@functools.cache
def _family_with(letter):
    """The family of an installed font that has a letter, or None."""
    from matplotlib import font_manager

    entries = sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.name != _FONT)
    return next((entry.name for entry in entries if ord(letter) in _letters_of(entry.fname)), None)


@functools.cache
def _letters_of(path):
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a font of a kind that it cannot read
        return frozenset()


_WAYS = {
    HeatMap: _heat_map,
    HeatMaps: _heat_maps,
    Bars: _bars,
    ColouredText: _coloured_text,
    AttentionView: _attention,
    OnImage: _on_image,
}
