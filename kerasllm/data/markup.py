"""Text out of HTML: what a reader would read, without scripts, menus and footers.

Documents are whole pages, pieces of them, or texts in which a tag stands here and there beside other angle brackets.
Trafilatura and resiliparse, measured beside this, were no better on pages and took such brackets for tags; the former
finds nothing in short pieces.
"""

import re
from collections import Counter
from html.parser import HTMLParser

_HEADINGS, _PARAGRAPHS, _LINES, _DROPPED, _INLINE = (
    frozenset(names.split())
    for names in (
        "h1 h2 h3 h4 h5 h6",
        "article blockquote dl fieldset figure form h1 h2 h3 h4 h5 h6 hr main ol p pre section table ul",
        "address body br caption center dd details div dt figcaption head header hgroup html legend li menu optgroup "
        "option summary tbody tfoot thead tr",
        "aside audio button canvas dialog footer iframe map nav noscript object script select style svg template "
        "textarea title video",
        "a abbr acronym area b base bdi bdo big cite code col colgroup data datalist del dfn em embed font i img input "
        "ins kbd label link mark meta meter output param picture progress q rp rt ruby s samp small source span strike "
        "strong sub sup td th time track tt u var wbr",
    )
)
_ELEMENTS = _PARAGRAPHS | _LINES | _DROPPED | _INLINE
_NAMES = "|".join(sorted(_ELEMENTS - {"s"}, key=len, reverse=True))  # "<s>" begins sentences in some corpora
# Attributes must look like some: "if a <b and c> d" holds no tag.
_TAG = re.compile(
    rf"<(?:!doctype\b[^<>]*+|/(?:{_NAMES})\s*+|(?:{_NAMES})(?:\s(?=[^<>=]*=)[^<>]*+|\s*+/?))>|<!--", re.IGNORECASE
)
_OTHER_ELEMENT = re.compile(r"\w+[-:]\w[\w.-]*")
_DECLARATION = re.compile(r"<[!?][^<>]*>")
# Only what is a whole tag reaches the parser, which takes quadratic time on tags without an end.
_NO_TAG = re.compile(r"<(?!/?[a-zA-Z][^<>]*>)")
# What stands in these is text to the parser, up to their end or that of the page.
_RAW = "iframe|noembed|noframes|plaintext|script|style|textarea|title|xmp"
_RAW_BEGIN = re.compile(rf"<({_RAW})\b[^<>]*>", re.IGNORECASE)
_RAW_END = re.compile(rf"</({_RAW})\b", re.IGNORECASE)
_ENTITY_OF_AMPERSAND = re.compile(r"&(?:(?:amp|#38|#x26);)+", re.IGNORECASE)
_MENU_ENTRY = 40


def has_tags(text):
    """Whether a text holds tags of HTML, and not only other things in angle brackets."""
    return "<" in text and _TAG.search(_with_ends(text)) is not None


def without_nested_escapes(text):
    """What was escaped again and again, such as "&amp;amp;lt;", escaped once: "&lt;"."""
    return _ENTITY_OF_AMPERSAND.sub("&amp;", text)


def text_of_html(text):
    """Returns the text of HTML.

    Lines and paragraphs are those a browser would show. Left out are scripts, styles, forms' buttons, page titles,
    navigation, asides and footers, and lines that are nothing but short links. Angle brackets that are no tags of HTML
    stay as they are.

    Example:

    >>> text_of_html("<nav><a href='/'>Home</a></nav><p>Fish &amp; <b>chips</b></p>")
    'Fish & chips'
    """
    text = _NO_TAG.sub("&lt;", _DECLARATION.sub("", _without_comments(_with_ends(text))))
    parser = _TextParser()
    parser.feed(text)
    parser.close()
    return parser.text()


def _with_ends(text):
    """The text with those tags and comments escaped that have no end, and would take all that follows with them."""
    last_ends = {match[1].lower(): match.start() for match in _RAW_END.finditer(text)}

    def checked(match):
        return match[0] if last_ends.get(match[1].lower(), -1) > match.start() else f"&lt;{match[0][1:]}"

    text = _RAW_BEGIN.sub(checked, text)
    begin, mark, end = text.rpartition("-->")
    return begin + mark + end.replace("<!--", "&lt;!--")


def _without_comments(text):
    begin, *rest = text.split("<!--")
    return begin + "".join(piece.partition("-->")[2] for piece in rest)


def _is_element(tag):
    """Whether a tag is one of HTML, or may be one of its extensions: "my-button", "o:p"."""
    return tag in _ELEMENTS or _OTHER_ELEMENT.fullmatch(tag) is not None


class _TextParser(HTMLParser):
    """Collects the lines of a page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self._lines = []
        self._parts, self._link_length = [], 0  # the line that is being read, and how much of it is links
        self._dropped = []  # (tag, number of lines before it) of each open element that is to be left out
        self._open = Counter()  # how many of each tag are in it
        self._links = self._preformatted = 0
        self._heading = False

    def text(self):
        self._end_line()
        return "\n".join(self._lines).strip("\n")

    def handle_starttag(self, tag, attrs):
        if not _is_element(tag):
            self.handle_data(self.get_starttag_text())
            return
        self._break(tag)
        if tag in _DROPPED:
            self._end_line()
            self._dropped.append((tag, len(self._lines)))
            self._open[tag] += 1
        self._links += tag == "a"
        self._preformatted += tag == "pre"
        self._heading = self._heading or tag in _HEADINGS

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if _is_element(tag):
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not _is_element(tag):
            self.handle_data(f"</{tag}>")
            return
        self._break(tag)
        if tag in _DROPPED:
            self._drop(tag)
        self._links -= tag == "a" and self._links > 0
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._heading = self._heading and tag not in _HEADINGS

    def handle_data(self, data):
        if self.cdata_elem:
            return
        self._parts.append(data)
        if self._links:
            self._link_length += len("".join(data.split()))

    def _break(self, tag):
        if tag in _PARAGRAPHS:
            self._end_line()
            if self._lines and self._lines[-1]:
                self._lines.append("")
        elif tag in _LINES:
            self._end_line()
        elif tag in ("td", "th"):
            self._parts.append(" ")

    def _end_line(self):
        line = "".join(self._parts)
        line = line.strip("\n") if self._preformatted else " ".join(line.split())
        is_link = self._link_length and self._link_length == len("".join(line.split()))
        if line and not (is_link and len(line) <= _MENU_ENTRY and not self._heading):
            self._lines.append(line)
        self._parts, self._link_length = [], 0

    def _drop(self, tag):
        """Forgets the lines since the element began. One that never ends, as some do, is kept: it may be the page."""
        self._end_line()
        while self._open[tag]:
            name, begin = self._dropped.pop()
            self._open[name] -= 1
            if name == tag:
                del self._lines[begin:]
                return
