"""Pictures in HTML that needs nothing from elsewhere: no script, style, font or image is fetched."""

import base64
import functools
import html
import io
import itertools
import json
from importlib import resources

import numpy as np

from kerasllm.interpret import colours
from kerasllm.interpret.drawings import AttentionView, Bars, ColouredText, HeatMap, HeatMaps, OnImage

_LARGEST_TILE = 96  # pixels of a head in the picture of a model
_numbers = itertools.count()


def draw(drawing):
    """A piece of HTML of one of the classes of `drawings`."""
    return _WAYS[type(drawing)](drawing)


def styled(fragment):
    """A piece of HTML with its style, for notebooks."""
    return f'<div class="kl"><style>{_file("pictures.css")}</style>{fragment}</div>'


def page(title, sections):
    """A whole page of sections, pairs (heading, piece of HTML)."""
    body = "\n".join(f"<h2>{html.escape(name)}</h2>\n{part}" if name else part for name, part in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>:root{{color-scheme:light dark}}body{{margin:2rem auto;max-width:72rem;padding:0 1rem;"
        f"font:15px/1.5 system-ui,sans-serif}}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


@functools.cache
def _file(name):
    return resources.files("kerasllm.interpret").joinpath(name).read_text(encoding="utf-8")


def token(text):
    """A token in any script: what is written from right to left turns nothing around it."""
    return f"<bdi>{html.escape(text)}</bdi>"


def _heat_map(drawing):
    lines = ["<tr><th></th>" + "".join(f"<th>{token(column)}</th>" for column in drawing.columns) + "</tr>"]
    for number, (name, row) in enumerate(zip(drawing.rows, drawing.shares, strict=True)):
        cells = []
        for place, share in enumerate(row):
            text = token(drawing.texts[number][place]) if drawing.texts else ""
            value = float(drawing.values[number][place])
            cells.append(f'<td style="{colours.in_css(share)}" title="{value:.3f}">{text}</td>')
        lines.append(f"<tr><th>{token(name)}</th>{''.join(cells)}</tr>")
    kind = "kl-words" if drawing.texts else "kl-cells"
    return f'{_title(drawing)}<div class="kl-wide"><table class="kl-map {kind}">{"".join(lines)}</table></div>'


def _heat_maps(drawing):
    return '<div class="kl-beside">' + "".join(f"<div>{_heat_map(one)}</div>" for one in drawing.maps) + "</div>"


def _bars(drawing):
    longest = max((abs(value) for _, value in drawing.pairs), default=0) or 1
    lines = []
    for name, value in drawing.pairs:
        side = "kl-less" if value < 0 else "kl-more"
        bar = f'<span class="{side}" style="width:{abs(value) / longest:.1%}"></span>'
        lines.append(f"<tr><th>{html.escape(name)}</th><td>{bar}</td><td>{value:+.3f}</td></tr>")
    return f'{_title(drawing)}<table class="kl-bars">{"".join(lines)}</table>'


def _coloured_text(drawing):
    lines = []
    for name, row, shares in zip(drawing.rows, drawing.values, drawing.shares, strict=True):
        spans = [
            f'<span style="{colours.in_css(share)}" title="{value:+.4f}">{token(text)}</span>'
            for text, value, share in zip(drawing.tokens, row, shares, strict=True)
        ]
        lines.append(f"<tr><th>{token(name)}</th><td>{''.join(spans)}</td></tr>")
    return f'{_title(drawing)}<table class="kl-text">{"".join(lines)}</table>'


def _title(drawing):
    return f'<p class="kl-title">{html.escape(drawing.title)}</p>' if drawing.title else ""


def _attention(drawing):
    """All heads in one image for each kind of map; a click shows one of them large, by the script."""
    groups = {}
    for each in drawing.maps:
        groups.setdefault((tuple(each.queries), tuple(each.keys)), []).append(each)
    parts, data = [], []
    for maps in groups.values():
        number = len(data)
        data.append(
            {
                "names": [each.name for each in maps],
                "heads": [len(each.probabilities) for each in maps],
                "queries": list(maps[0].queries),
                "keys": list(maps[0].keys),
                "values": [_in_bytes(each.probabilities) for each in maps],
            }
        )
        first = maps[-1]
        large = HeatMap(first.probabilities[0], first.queries, first.keys)
        title = f"rows: layers, {html.escape(maps[0].name)} to {html.escape(first.name)}; columns: heads"
        parts.append(
            f'<p class="kl-title">{title}</p><div class="kl-beside"><img class="kl-model" data-group="{number}" '
            f'alt="attention of all heads" src="{_image(maps)}"><div class="kl-head" data-group="{number}">'
            f'<p class="kl-title">{html.escape(first.name)}, head 0</p>{_heat_map(large)}</div></div>'
        )
    name = f"kl-{next(_numbers)}"
    script = f'(root => {{{_file("attention.js")}}})(document.getElementById("{name}"));'
    content = json.dumps(data).replace("<", "\\u003c")  # nothing in it ends the element
    return (
        f'<div id="{name}">{"".join(parts)}<script type="application/json">{content}</script>'
        f"<script>{script}</script></div>"
    )


def _in_bytes(probabilities):
    """Probabilities as numbers from 0 to 255, in base64."""
    return base64.b64encode(np.round(np.clip(probabilities, 0, 1) * 255).astype("uint8").tobytes()).decode()


def _on_image(drawing):
    rows = []
    for maps in drawing.maps:
        drawn = [("", drawing.image / 255), *((title, drawing.drawn(values)) for title, values in maps)]
        figures = (
            f'<figure><img class="kl-drawn" alt="{html.escape(title) or "image"}" src="{_as_address(pixels)}">'
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
            for title, pixels in drawn
        )
        rows.append(f'<div class="kl-beside">{"".join(figures)}</div>')
    return "".join(rows)


def _as_address(pixels):
    """Pixels (H, W, 3) from 0 to 1 as a data URL."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, np.clip(pixels, 0, 1), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _image(maps):
    """An image of all heads, layer by layer, as a data URL."""
    H = max(len(each.probabilities) for each in maps)
    T, S = maps[0].probabilities.shape[1:]
    step = max(1, -(-max(T, S) // _LARGEST_TILE))  # of long texts, every so manyth token
    tiles = [
        np.pad(
            each.probabilities[:, ::step, ::step],
            ((0, H - len(each.probabilities)), (0, 1), (0, 1)),
            constant_values=-1,
        )
        for each in maps
    ]
    L, (_, height, width) = len(tiles), tiles[0].shape
    grid = np.array(tiles).transpose(0, 2, 1, 3).reshape(L * height, H * width)
    pixels = np.where(grid[..., None] < 0, 0.8, colours.on_white(np.sqrt(np.maximum(grid, 0))))
    return _as_address(pixels)


_WAYS = {
    HeatMap: _heat_map,
    HeatMaps: _heat_maps,
    Bars: _bars,
    ColouredText: _coloured_text,
    AttentionView: _attention,
    OnImage: _on_image,
}
