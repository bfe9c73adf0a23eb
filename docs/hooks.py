"""What mkdocs does besides: pages from outside of `docs/`, and links as the repository has them.

README.md is the first page, the notebooks are pages with the outputs that they hold, and nothing is run. A link leads
somewhere in the repository; on the site it leads to the page that was made of that file.
"""

import base64
import json
import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", flags=re.DOTALL | re.MULTILINE)


def on_files(files, config):
    """Adds the pages that are made of files outside of `docs/`."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_links_of_site(text, source, page)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook, page = json.loads(path.read_text(encoding="utf-8")), f"notebooks/{path.stem}.md"
        text, pictures = _notebook_page(notebook, path.stem)
        text = _with_links_of_site(text, f"notebooks/{path.name}", page)
        files.append(File.generated(config, page, content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns the links of a page of `docs/` into those of the site."""
    if page.file.generated_by:
        return markdown
    return _with_links_of_site(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _with_links_of_site(markdown, source, page):
    """Markdown of a file of the repository, whose links are then those of the page made of it."""

    def linked(match):
        path, *anchor = match[2].split("#")
        if not path or "://" in path:
            return match[0]
        target = _page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        return match[1] + "#".join([os.path.relpath(target, posixpath.dirname(page) or "."), *anchor]) + match[3]

    parts = _CODE.split(markdown)  # every other one is code
    return "".join(part if i % 2 else _LINK.sub(linked, part) for i, part in enumerate(parts))


def _page_of(path):
    """Where on the site a file of the repository is found."""
    path = PAGES.get(path, path).removeprefix("docs/")
    return path.removesuffix(".ipynb") + ".md" if path.endswith(".ipynb") else path


def _notebook_page(notebook, stem):
    """The Markdown of a notebook with the outputs that it holds, and its pictures by name."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else _fenced(source, "python"))
        for output in cell.get("outputs", ()):
            data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
            if "image/png" in data:
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![]({name})")
            else:
                parts.append(_fenced("".join(output.get("text", data.get("text/plain", ""))), "text"))
    return "\n\n".join(parts), pictures


def _fenced(text, language):
    return f"````{language}\n{text.rstrip()}\n````"
