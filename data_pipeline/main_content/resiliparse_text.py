"""HTML -> main text by resiliparse (Bevendorff et al., "Elastic ChatNoir", ECIR 2018), a parser in
compiled code, and the choice between it and the lesson.

`text_extraction.py` is the extractor to read; this one is 2.1 times as fast (488 pages against 231
in a second of one thread, benchmarks/text_extraction_results.json). Both get the characters of a
page from `page_encoding.py`, so they agree on charsets. Tables, lists, code with its indentation
and the text of formulas stay; link targets, texts that replace images, and form fields are left
out.

The library is compiled code that a time limit cannot interrupt, and it takes time quadratic in two
things (resiliparse 2.0.1, measured on one core): <div> or <article> inside each other (16,000
levels: 8 s), and the attributes of one tag (100,000 names: more than 20 s). The lesson reads pages
beyond MAX_DEPTH or MAX_ATTRIBUTES instead; its time is linear.

What this leaves out: the <title>; markup of lists and tables as the lesson has it ("- ", " | "),
since here items begin with "•" and tabs separate the cells of a row; and unordered lists fewer than
four levels below <body>, which the library always takes for navigation.
"""

import re
from typing import Literal

from data_pipeline.html.page_encoding import decode_page
from data_pipeline.main_content.plain_pages import drop_control_characters
from data_pipeline.sources.warc_files import Page
from data_pipeline.text_extraction import extract_text

Extractor = Literal["lesson", "resiliparse"]

MAX_DEPTH = 1_000  # real pages have fewer than 100 levels; this many take 0.03 s
MAX_ATTRIBUTES = 5_000  # of one tag; 8,000 take 0.1 s
NESTING_TAG = re.compile(r"<(/?)(?:div|article)(?=[\s/>])", re.IGNORECASE)
CROWDED_TAG = re.compile(
    rf"""<[a-zA-Z](?:[\s/]*+[^<>"'\s/]++(?:"[^"]*+"|'[^']*+')?+){{{MAX_ATTRIBUTES}}}+"""
)
TRAILING_SPACE = re.compile(r"(?<![ \t])[ \t]++$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n{3,}")


def is_costly(html: str) -> bool:
    """Return whether a page has too much of what takes the library quadratic time.

    >>> is_costly("<div>" * 1000), is_costly("<div>" * 1001), is_costly("<div></div>" * 5000)
    (False, True, False)
    """
    if CROWDED_TAG.search(html):
        return True
    depth = 0
    for found in NESTING_TAG.finditer(html):
        depth = max(depth - 1, 0) if found[1] else depth + 1
        if depth > MAX_DEPTH:
            return True
    return False


def extract_main_content(html: str) -> str:
    """Return the main text of a page, "" if there is none.

    Args:
        html: the characters of a page.
    """
    from resiliparse.extract.html2text import extract_plain_text

    from data_pipeline.text_extraction import extract_html_text  # a learner's file may lack it

    if is_costly(html):
        return extract_html_text(html)
    text = extract_plain_text(
        html,
        preserve_formatting=True,  # line breaks, list bullets, and spaces inside <pre>
        main_content=True,
        list_bullets=True,
        alt_texts=False,
        links=False,
        form_fields=False,
        noscript=False,
    )
    text = TRAILING_SPACE.sub("", text.replace("\xa0", " "))
    return BLANK_LINES.sub("\n\n", text).strip("\n")


def page_text(page: Page, extractor: Extractor) -> str | None:
    """Return the text of a page, "" if it has none, None if its type is not readable text.

    Args:
        page: as the sources yield it.
        extractor: what reads HTML; other types are the same for both.
    """
    if extractor == "lesson":
        return extract_text(page.payload, page.content_type, page.charset)
    from data_pipeline.text_extraction import HTML_TYPES

    if page.content_type in HTML_TYPES:
        html = decode_page(page.payload, page.charset)
        return drop_control_characters(extract_main_content(html))
    return extract_text(page.payload, page.content_type, page.charset)
