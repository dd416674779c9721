"""HTML -> the main text of a page: paragraphs, lists, tables and code, without menus and scripts.

Three steps: bytes -> characters (page_encoding.py), HTML -> blocks of text (`BlockCollector`), and
a decision for each block (`is_content`), based on two measures of Kohlschütter et al., "Boilerplate
Detection using Shallow Text Features" (WSDM 2010), section 3: the share of a block's characters
inside links, and its length. A short block is ambiguous by itself, so its neighbours decide, as in
Pomikálek's jusText (2011), section 3.2.

What this leaves out: learned models of boilerplate, visible layout (CSS), text that scripts write,
and the repair of broken nesting (tags are used as they come; a <nav> that is never closed hides the
rest of its page).

Everything here takes time in proportion to the page: a pattern that could rescan the same
characters from each of its starts stops at the next start instead, or is possessive (`*+`, `++`).
"""

import re
from collections import Counter
from dataclasses import dataclass

from data_pipeline.html.html_tokens import EndTag, StartTag, tokens
from data_pipeline.html.page_encoding import decode_page
from data_pipeline.main_content.plain_pages import (
    clean_plain_text,
    drop_control_characters,
    normalize_plain_text,
)

# fmt: off
ALWAYS_DROPPED_TAGS = frozenset({
    "script", "style", "noscript", "template", "svg", "button", "select", "iframe",
})
DROPPED_TAGS = ALWAYS_DROPPED_TAGS | {"nav", "header", "footer", "aside", "form"}
# the ARIA roles of these, on tags that an end tag always closes
DROPPED_ROLES = frozenset({"navigation", "banner", "contentinfo", "complementary", "search"})
ROLE_TAGS = frozenset({"div", "section", "table", "ul"})
BLOCK_TAGS = frozenset({
    "address", "article", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "html", "li",
    "main", "ol", "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead",
    "title", "tr", "ul",
})
# fmt: on
HTML_TYPES = ("text/html", "application/xhtml+xml")
MARKUP_TYPES = ("text/markdown", "text/x-markdown", "text/x-rst")
MAX_LINK_DENSITY = 0.5
SHORT_BLOCK_CHARACTERS = 40  # shorter: a heading, a menu entry, a cell; the neighbours decide
MAX_INDENT_DEPTH = 16  # bounds the output of a page of unclosed <dd>, else quadratic in length
PERMALINKS = frozenset({"¶", "#", "§"})  # whole texts of links beside headings, to themselves
COLLAPSIBLE_SPACE = re.compile(r"[ \t\n\r\f]+")  # not U+00A0: &nbsp; is used for indentation
SPACE_AT_BREAK = re.compile(r" ?\n ?")


@dataclass
class Block:
    """A piece of text between two block tags."""

    text: str
    tag: str  # the block tag that encloses it
    link_density: float  # share of its characters inside <a href>, 0..1


class BlockCollector:
    """A reader of HTML that fills `blocks`; it skips `dropped_tags` with everything inside them."""

    def __init__(self, dropped_tags: frozenset[str]) -> None:
        self.dropped_tags = dropped_tags
        self.dropped_roles = DROPPED_ROLES if "nav" in dropped_tags else frozenset()
        self.blocks: list[Block] = []
        self.open_dropped: list[str] = []
        self.times_open: Counter[str] = Counter()  # of each tag in open_dropped
        self.pieces: list[str] = []
        self.text_characters = 0
        self.link_characters = 0
        self.tag = "body"
        self.in_link = False
        self.pre_depth = 0
        self.indent_depth = 0  # open <dd>
        self.row_start: int | None = None  # number of blocks when the open <tr> began

    def read(self, html: str) -> None:
        """Read a whole page."""
        for token in tokens(html):
            if isinstance(token, str):
                self.take_text(token)
            elif isinstance(token, EndTag):
                self.end_tag(token.name)
            else:
                self.start_tag(token)
                if token.closes_itself:
                    self.end_tag(token.name)
        self.end_block()

    def start_tag(self, token: StartTag) -> None:
        tag = token.name
        drops = tag in self.dropped_tags or (
            tag in ROLE_TAGS and token.attributes.get("role", "").lower() in self.dropped_roles
        )
        if drops or self.times_open[tag]:  # inside a dropped <div>, its inner ones are counted
            self.open_dropped.append(tag)
            self.times_open[tag] += 1
        if self.open_dropped:
            return
        if tag == "a":
            self.in_link = "href" in token.attributes
        elif tag == "br":
            self.pieces.append("\n")
        elif tag in BLOCK_TAGS:
            self.end_block()
            self.tag = tag
            self.pre_depth += tag == "pre"
            self.indent_depth += tag == "dd"
            if tag == "tr":
                self.row_start = len(self.blocks)

    def end_tag(self, tag: str) -> None:
        if self.times_open[tag]:
            closed = ""
            while closed != tag:
                closed = self.open_dropped.pop()
                self.times_open[closed] -= 1
        elif self.open_dropped:
            return
        elif tag == "a":
            self.in_link = False
        elif tag in BLOCK_TAGS:
            self.end_block()
            self.tag = "body"
            self.pre_depth -= tag == "pre" and self.pre_depth > 0
            self.indent_depth -= tag == "dd" and self.indent_depth > 0
            if tag == "tr" and self.row_start is not None:
                self.join_row(self.row_start)
                self.row_start = None

    def take_text(self, data: str) -> None:
        if self.open_dropped or (self.in_link and data.strip() in PERMALINKS):
            return
        self.pieces.append(data if self.pre_depth else COLLAPSIBLE_SPACE.sub(" ", data))
        characters = len("".join(data.split()))
        self.text_characters += characters
        self.link_characters += characters * self.in_link

    def end_block(self) -> None:
        """Close the current block if it has any text."""
        text = "".join(self.pieces)
        if self.text_characters:
            if not self.pre_depth:
                text = "\n".join(line.strip(" ") for line in SPACE_AT_BREAK.split(text))
            lines = [line.rstrip() for line in text.replace("\xa0", " ").split("\n")]
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
            if self.tag == "li":
                text = "- " + text.lstrip()
            if self.indent_depth:
                indent = " " * 4 * min(self.indent_depth, MAX_INDENT_DEPTH)
                text = "\n".join(indent + line if line else "" for line in text.split("\n"))
            self.blocks.append(Block(text, self.tag, self.link_characters / self.text_characters))
        self.pieces, self.text_characters, self.link_characters = [], 0, 0

    def join_row(self, first: int) -> None:
        """Join a table row whose cells are one line each into one line; other rows are layout and
        stay as they are. A row's link density is that of its characters or the share of cells
        that are links, whichever is larger ("Previous | Chapter 5: Tables | Next" is a menu).
        """
        cells = self.blocks[first:]
        if len(cells) > 1 and all(
            "\n" not in cell.text and cell.tag in ("td", "th") for cell in cells
        ):
            characters = [len(cell.text) for cell in cells]
            linked = sum(c * cell.link_density for c, cell in zip(characters, cells, strict=True))
            link_cells = sum(cell.link_density > MAX_LINK_DENSITY for cell in cells)
            density = max(linked / sum(characters), link_cells / len(cells))
            text = " | ".join(cell.text.strip() for cell in cells)
            self.blocks[first:] = [Block(text, "tr", density)]


def collect_blocks(html: str, dropped_tags: frozenset[str] = DROPPED_TAGS) -> list[Block]:
    """Return the blocks of a page in reading order, including menus."""
    collector = BlockCollector(dropped_tags)
    collector.read(html)
    return collector.blocks


def is_content(blocks: list[Block]) -> list[bool]:
    """Decide which blocks are main text: not link-heavy blocks, but long blocks; short ones follow
    their neighbours. A block with enough text outside its links to be long is not link-heavy.

    A run of short blocks is kept if the long blocks on both sides are kept. Between a kept and a
    link-heavy block, the run is kept except for the block next to the links, which is their title.
    Without a kept block on either side, it is dropped.
    """
    link_heavy = [
        block.link_density > MAX_LINK_DENSITY
        and (1 - block.link_density) * len(block.text) < SHORT_BLOCK_CHARACTERS
        for block in blocks
    ]
    short = [
        len(block.text.strip()) < SHORT_BLOCK_CHARACTERS and block.tag != "pre" for block in blocks
    ]
    keep = [
        not is_short and not is_links for is_short, is_links in zip(short, link_heavy, strict=True)
    ]
    if not any(keep):  # a page of short lines only: nothing to compare them with
        return [not is_links for is_links in link_heavy]
    position = 0
    while position < len(blocks):
        end = position
        while end < len(blocks) and short[end] and not link_heavy[end]:
            end += 1
        if end > position:
            good_before = position > 0 and keep[position - 1]
            good_after = end < len(blocks) and keep[end]
            if good_before or good_after:
                first = position
                last = end - 1 if end < len(blocks) and not good_after else end
                keep[first:last] = [True] * (last - first)
        position = max(end, position + 1)
    return keep


def join_blocks(blocks: list[Block]) -> str:
    """Join the blocks into one text, with an empty line between blocks, but not inside a list,
    between the rows of a table, or before a <dd>.
    """
    pieces: list[str] = []
    previous = ""
    for block in blocks:
        tight = (block.tag == previous and block.tag in ("li", "tr", "dt")) or (
            previous == "dt" and block.tag == "dd"
        )
        if pieces:
            pieces.append("\n" if tight else "\n\n")
        pieces.append(block.text)
        previous = block.tag
    return "".join(pieces)


def extract_html_text(html: str) -> str:
    """Return the main text of a page below its <title>, "" if there is none.

    A page that consists of <form> or <header> alone, as some site builders generate them, is read
    again with these tags kept.
    """
    for dropped_tags in (DROPPED_TAGS, ALWAYS_DROPPED_TAGS):
        blocks = collect_blocks(html, dropped_tags)
        titles = [block for block in blocks if block.tag == "title"][:1]
        body = [block for block in blocks if block.tag != "title"]
        kept = [block for block, keep in zip(body, is_content(body), strict=True) if keep]
        if kept:
            return join_blocks(titles + kept if titles and titles[0].text != kept[0].text else kept)
    return ""


def extract_text(payload: bytes, content_type: str, http_charset: str = "") -> str | None:
    """Return the text of a page, "" if it has none, None if the content type is not readable text
    (an image, a script).

    Plain text is what other programs have extracted already (WET files, rows of parquet files), or
    never was markup; only its lines are normalized.
    """
    if content_type in HTML_TYPES:
        html = decode_page(payload, http_charset)
        return drop_control_characters(extract_html_text(html))
    if content_type in MARKUP_TYPES:
        return clean_plain_text(decode_page(payload, http_charset))
    if content_type == "text/plain":
        return normalize_plain_text(decode_page(payload, http_charset))
    return None
