"""The main text of a page, written from the handout: numbers of blocks in place of passes."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import groupby

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
        if self.open_dropped:
            return
        is_permalink = self.in_link and data.strip() in PERMALINKS
        if not is_permalink:
            visible = sum(not character.isspace() for character in data)
            self.pieces += (
                [data] if self.pre_depth > 0 else [" ".join(COLLAPSIBLE_SPACE.split(data))]
            )
            self.text_characters += visible
            if self.in_link:
                self.link_characters += visible

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
        row = self.blocks[first:]
        if len(row) < 2 or {cell.tag for cell in row} - {"td", "th"}:
            return
        texts = [cell.text for cell in row]
        if "\n" in "".join(texts):
            return
        links = [cell.link_density for cell in row]
        by_length = sum(len(text) * link for text, link in zip(texts, links, strict=True))
        by_length /= len("".join(texts))
        by_cells = [link > MAX_LINK_DENSITY for link in links].count(True) / len(links)
        del self.blocks[first:]
        joined = " | ".join(map(str.strip, texts))
        self.blocks.append(Block(joined, "tr", max(by_length, by_cells)))


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
    kinds = [kind_of(block) for block in blocks]
    if "long" not in kinds:
        return [kind != "links" for kind in kinds]
    runs = [[kind, len(list(run))] for kind, run in groupby(kinds)]
    kept = []
    for number, (kind, size) in enumerate(runs):
        before = runs[number - 1][0] if number else ""
        behind = runs[number + 1][0] if number + 1 < len(runs) else ""
        if kind == "short" and behind == "links" and before == "long":
            kept += [True] * (size - 1) + [False]
        else:
            good = kind == "long" or (kind == "short" and "long" in (before, behind))
            kept += [good] * size
    return kept


def kind_of(block):
    outside = (1 - block.link_density) * len(block.text)
    if block.link_density > MAX_LINK_DENSITY and outside < SHORT_BLOCK_CHARACTERS:
        return "links"
    if block.tag != "pre" and len(block.text.strip()) < SHORT_BLOCK_CHARACTERS:
        return "short"
    return "long"


def join_blocks(blocks: list[Block]) -> str:
    """Join the blocks into one text, with an empty line between blocks, but not inside a list,
    between the rows of a table, or before a <dd>.
    """
    close = {("li", "li"), ("tr", "tr"), ("dt", "dt"), ("dt", "dd")}
    made = blocks[0].text if blocks else ""
    for number in range(1, len(blocks)):
        pair = blocks[number - 1].tag, blocks[number].tag
        made = f"{made}\n{'' if pair in close else chr(10)}{blocks[number].text}"
    return made


def extract_html_text(html: str) -> str:
    """Return the main text of a page below its <title>, "" if there is none.

    A page that consists of <form> or <header> alone, as some site builders generate them, is read
    again with these tags kept.
    """
    made = text_without(html, DROPPED_TAGS)
    if made is None:
        made = text_without(html, ALWAYS_DROPPED_TAGS)
    return made or ""


def text_without(html, dropped_tags):
    blocks = collect_blocks(html, dropped_tags)
    body = [block for block in blocks if block.tag != "title"]
    flags = is_content(body)
    body = [block for number, block in enumerate(body) if flags[number]]
    if not body:
        return None
    title = next((block for block in blocks if block.tag == "title"), body[0])
    return join_blocks(body if title.text == body[0].text else [title, *body])


def extract_text(payload: bytes, content_type: str, http_charset: str = "") -> str | None:
    """Return the text of a page, "" if it has none, None if the content type is not readable text
    (an image, a script).

    Plain text is what other programs have extracted already (WET files, rows of parquet files), or
    never was markup; only its lines are normalized.
    """
    if content_type not in (*HTML_TYPES, *MARKUP_TYPES, "text/plain"):
        return None
    characters = decode_page(payload, http_charset)
    if content_type in MARKUP_TYPES:
        return clean_plain_text(characters)
    if content_type == "text/plain":
        return normalize_plain_text(characters)
    return drop_control_characters(extract_html_text(characters))
