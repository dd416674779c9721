"""HTML -> start tags, end tags and text: the tokenizer of the HTML standard (section 13.2.5),
reduced to the parts that text extraction needs.

Python's own html.parser rereads a tag, comment or script that never ends from every "<" in it,
which takes time quadratic in the page's length, and its treatment of broken markup differs between
Python 3.11.7 and 3.13. Here every step moves forward, and an element that is never closed ends with
the page, as in browsers.

What this leaves out: the names inside a doctype, the text of comments, CDATA sections outside HTML,
the repair of nesting, and control characters and noncharacters that are written as numbers (`&#1;`,
`&#xfffe;`), which `html.unescape` drops. A self-closing tag (`<script/>`) has no contents, as in
XHTML.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from html import unescape
from html.entities import html5

SPACE = r"\t\n\x0c\r "
TAG_NAME = re.compile(rf"[a-zA-Z][^{SPACE}/>]*+")
# "=" may begin a name; a quote inside an unquoted value is an ordinary character
ATTRIBUTE = re.compile(
    rf"""[{SPACE}/]*+(?:
        (?P<end>>)
      | (?P<name>[^{SPACE}/>][^{SPACE}/>=]*+)
        (?:[{SPACE}]*+=[{SPACE}]*+
          (?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)'|(?!["'])(?P<bare>[^{SPACE}>]*+)))?
    )""",
    re.VERBOSE,
)
UNCLOSED_VALUE = re.compile(rf"[{SPACE}]*+=")
COMMENT_END = re.compile(r"--!?>")
SCRIPT_MARK = re.compile(rf"<!--|-->|</?script(?=[{SPACE}/>])", re.IGNORECASE | re.ASCII)
# html.unescape passes all digits to int(), which rejects more than 4,300 of them
LEADING_ZEROS = re.compile(r"&#(?:([xX])0++(?=[0-9a-fA-F])|0++(?=[0-9]))")
HUGE_REFERENCE = re.compile(r"&#(?:[xX][0-9a-fA-F]{7,}+|[0-9]{8,}+);?")
# In an attribute, a name without semicolon counts only if no letter, digit or "=" follows. All
# names consist of letters and digits, so only the whole run of these can be the longest name.
ATTRIBUTE_REFERENCE = re.compile(
    r"&(?:(?P<number>#[xX][0-9a-fA-F]++;?+|#[0-9]++;?+)|(?P<name>[0-9a-zA-Z]++(?:;|(?!=))))"
)

RAW_TEXT = frozenset({"style", "xmp", "iframe", "noembed", "noframes", "script", "plaintext"})
ESCAPABLE_RAW_TEXT = frozenset({"textarea", "title"})  # character references are resolved in these


@dataclass(frozen=True, slots=True)
class StartTag:
    """<name attributes>; if an attribute name is repeated, the first one counts."""

    name: str
    attributes: dict[str, str]
    closes_itself: bool = False


@dataclass(frozen=True, slots=True)
class EndTag:
    """</name>"""

    name: str


Token = StartTag | EndTag | str


def tokens(html: str) -> Iterator[Token]:
    """Yield the tags and the text of a page in order; text is never empty."""
    text_start = position = 0
    while (position := html.find("<", position)) >= 0:
        markup_end, token = _read_markup(html, position)
        if markup_end == position:  # a "<" that begins no markup
            position += 1
            continue
        if text_start < position:
            yield unescape_references(html[text_start:position])
        if token is not None:
            yield token
        text_start = position = markup_end
        if isinstance(token, StartTag) and not token.closes_itself:
            name = token.name
            if name in RAW_TEXT or name in ESCAPABLE_RAW_TEXT:
                text_start = position = _raw_text_end(html, markup_end, name)
                if text := html[markup_end:position]:
                    yield text if name in RAW_TEXT else unescape_references(text)
    if text := html[text_start:]:
        yield unescape_references(text)


def _read_markup(html: str, position: int) -> tuple[int, Token | None]:
    """Return the end of the markup that begins at a "<" (the same position if it is text), and its
    tag.
    """
    following = html[position + 1 : position + 2]
    if following.isascii() and following.isalpha():
        return _read_tag(html, position + 1, is_end=False)
    if following == "/":
        after_slash = html[position + 2 : position + 3]
        if after_slash.isascii() and after_slash.isalpha():
            return _read_tag(html, position + 2, is_end=True)
        return (position, None) if not after_slash else _skip_to(html, ">", position + 2)
    if following == "!":
        return _read_comment(html, position)
    return _skip_to(html, ">", position + 1) if following == "?" else (position, None)


def _skip_to(html: str, mark: str, position: int) -> tuple[int, None]:
    found = html.find(mark, position)
    return (len(html) if found < 0 else found + len(mark)), None


def _read_comment(html: str, position: int) -> tuple[int, None]:
    """Read <!-- ... -->, or what the standard treats as a comment, such as <!doctype ...>."""
    if not html.startswith("<!--", position):
        return _skip_to(html, ">", position + 2)
    start = position + 4
    for whole in (">", "->"):  # <!--> and <!--->
        if html.startswith(whole, start):
            return start + len(whole), None
    found = COMMENT_END.search(html, start)
    return (found.end() if found else len(html)), None


def _read_tag(html: str, position: int, *, is_end: bool) -> tuple[int, Token | None]:
    """Read the tag whose name is at `position`; a tag cut off by the end of the page is dropped."""
    found = TAG_NAME.match(html, position)
    assert found is not None, "call this only at a letter"
    name, position = found.group().lower(), found.end()
    attributes: dict[str, str] = {}
    while found := ATTRIBUTE.match(html, position):
        position = found.end()
        if found["end"]:
            token = EndTag(name) if is_end else StartTag(name, attributes, found[0][-2:-1] == "/")
            return position, token
        attribute, value = found["name"].lower(), found[found.lastgroup or "name"]
        if found.lastgroup == "name":
            value = ""
            if UNCLOSED_VALUE.match(html, position):
                break
        if attribute not in attributes:
            attributes[attribute] = unescape_attribute(value)
    return len(html), None


@lru_cache
def _end_tag_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}(?=[{SPACE}/>])", re.IGNORECASE | re.ASCII)


def _raw_text_end(html: str, position: int, name: str) -> int:
    """Return the end of the contents of a raw-text element: its end tag, or the end of the page."""
    if name == "plaintext":
        return len(html)
    if name == "script":
        return _script_end(html, position)
    found = _end_tag_pattern(name).search(html, position)
    return found.start() if found else len(html)


def _script_end(html: str, position: int) -> int:
    """Return the end of a script; inside `<!-- <script>`, the first </script> is part of it."""
    in_comment = in_inner_script = False
    while found := SCRIPT_MARK.search(html, position):
        mark, position = found[0].lower(), found.end()
        if mark == "<!--":
            if not in_comment:
                in_comment = True
                position -= 2  # "<!-->" is a whole comment
        elif mark == "-->":
            in_comment = in_inner_script = False
        elif mark == "<script":
            in_inner_script = in_comment
        elif in_inner_script:
            in_inner_script = False
        else:
            return found.start()
    return len(html)


def unescape_references(text: str) -> str:
    """Replace references such as `&amp;` by their characters; never by a lone surrogate."""
    if "&" not in text:
        return text
    if "&#" in text:
        text = HUGE_REFERENCE.sub("\ufffd", LEADING_ZEROS.sub(r"&#\1", text))
    return unescape(text)


def unescape_attribute(value: str) -> str:
    """Replace references in the value of an attribute, where `?a=1&lt=2` and `&copy2` stay as they
    are: pages have such addresses.
    """
    return ATTRIBUTE_REFERENCE.sub(_attribute_reference, value) if "&" in value else value


def _attribute_reference(found: re.Match[str]) -> str:
    if found["number"]:
        return unescape_references(found[0])
    return html5.get(found["name"], found[0])
