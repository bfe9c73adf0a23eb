"""A report as a page: one file, with its pictures in it."""

import base64
import html

from kerasllm.interpret import fragments

_STYLE = (
    "<style>.audit{border-collapse:collapse;width:100%;max-width:60rem}"
    ".audit th,.audit td{border-bottom:1px solid #8883;"
    "padding:3px 8px;vertical-align:top;overflow-wrap:anywhere}.audit th{text-align:left;font-weight:normal;opacity:.8}"
    ".audit td{text-align:right;font-variant-numeric:tabular-nums}.limits{opacity:.8}"
    "img{max-width:100%;background:#fff;border-radius:4px;margin:.6rem 0}pre{overflow:auto}</style>"
)


def page(title, parts, missing=()):
    """A page about a model.

    Args:
        title: str, its name.
        parts: list of `Part`.
        missing: list of pairs of str: what was not measured, and the command that would.

    Returns:
        str, HTML that loads nothing.
    """
    sections = [("", _STYLE + _contents(parts, missing))]
    sections += [(part.title, f'<a id="{html.escape(part.name)}"></a>{_part(part)}') for part in parts]
    if missing:
        rows = "".join(
            f"<li>{html.escape(what)}: <code>{html.escape(command)}</code></li>" for what, command in missing
        )
        sections.append(("What was not measured", f'<a id="missing"></a><ul>{rows}</ul>'))
    return fragments.page(f"Audit of {title}", sections)


def _contents(parts, missing):
    names = [(part.name, part.title) for part in parts] + ([("missing", "What was not measured")] if missing else [])
    return "<p>" + " · ".join(f'<a href="#{html.escape(n)}">{html.escape(t)}</a>' for n, t in names) + "</p>"


def _part(part):
    rows = "".join(f"<tr><th>{html.escape(what)}</th><td>{html.escape(figure)}</td></tr>" for what, figure in part.rows)
    pictures = "".join(
        f'<img alt="{html.escape(part.title)}" src="data:image/png;base64,{base64.b64encode(one).decode()}">'
        for one in part.pictures
    )
    limits = "".join(f"<li>{html.escape(limit)}</li>" for limit in part.limits)
    limits = f'<div class="limits"><p>What this does not show:</p><ul>{limits}</ul></div>' if limits else ""
    return f'<table class="audit">{rows}</table>{pictures}{limits}'
