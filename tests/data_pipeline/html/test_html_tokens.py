"""Tags and text: by hand, against html5lib's tokenizer, and on markup that never ends."""

import re
import sys
from html.entities import html5

import pytest
from html5lib._tokenizer import HTMLTokenizer
from html5lib.constants import tokenTypes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_data import REAL_CRAWL, needs_shared_data

from data_pipeline.html.html_tokens import (
    ESCAPABLE_RAW_TEXT,
    RAW_TEXT,
    EndTag,
    StartTag,
    tokens,
    unescape_attribute,
    unescape_references,
)
from data_pipeline.sources.warc_files import read_warc


def test_by_hand():
    html = '<!doctype html><p class="a>b" class=c>1 &lt; 2<br/>3 < 4</P ><!-- <b> --> &amp;</>'
    assert list(tokens(html)) == [
        StartTag("p", {"class": "a>b"}),
        "1 < 2",
        StartTag("br", {}, True),
        "3 < 4",
        EndTag("p"),
        " &",
    ]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a<b", ["a"]),  # a tag that the page's end cuts off is dropped
        ("a<b c='>", ["a"]),
        ("a<!-- b", ["a"]),
        ("a</", ["a</"]),
        ("a<", ["a<"]),
        ("a<!-->b<!--->c<!--x--!>d", ["a", "b", "c", "d"]),
        ("<?php x ?>a", ["a"]),
        ("<a href=x/>", [StartTag("a", {"href": "x/"})]),
        ("<a =b=c>", [StartTag("a", {"=b": "c"})]),
        ("<a b= >", [StartTag("a", {"b": ""})]),
        ("<title>a<b>&lt;</title>", [StartTag("title", {}), "a<b><", EndTag("title")]),
        ("<style>a<b>&lt;</styles></STYLE\n>", [StartTag("style", {}), "a<b>&lt;</styles>",
                                                EndTag("style")]),
        ("<script><!-- <script></script> --></script>b",
         [StartTag("script", {}), "<!-- <script></script> -->", EndTag("script"), "b"]),
        ("<script><!--></script>b", [StartTag("script", {}), "<!-->", EndTag("script"), "b"]),
        ("<script src=x />b", [StartTag("script", {"src": "x"}, True), "b"]),
        ("<plaintext>a</plaintext>", [StartTag("plaintext", {}), "a</plaintext>"]),
    ],
)  # fmt: skip
def test_what_browsers_make_of_it(html, expected):
    assert list(tokens(html)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&#xD800;&#55296;", "\ufffd\ufffd"),
        ("&#x110000;&#0;", "\ufffd\ufffd"),
        (f"&#{'9' * 5000};", "\ufffd"),
        (f"&#x{'f' * 5000}", "\ufffd"),
        (f"&#{'0' * 5000}65;&#x{'0' * 5000}41;", "AA"),
        ("&#0a&#00;&#x0g", "\ufffda\ufffd\ufffdg"),
        ("&#128;&nbsp;&notit;&amp;lt;", "€\xa0¬it;&lt;"),
    ],
)
def test_character_references(text, expected):
    assert unescape_references(text) == expected
    assert unescape_attribute(text.replace("&notit;", "¬it;")) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("?a=1&lt=2&lta=3&gt;=4", "?a=1&lt=2&lta=3>=4"),
        ("&copy2 &copy; &copyé &copy", "&copy2 © ©é ©"),
        ("&notit; &notin; &not-it;", "&notit; ∉ ¬-it;"),
        ("&LT&Lt&Lt;", "<&Lt≪"),
        ("&amp;lt;&amp;#38;&#38;lt;", "&lt;&#38;&lt;"),
        ("&#38=&#x26=&#38a&#0a", "&=&=&a\ufffda"),
        ("&;&&=&unknown;&unknown=", "&;&&=&unknown;&unknown="),
    ],
)
def test_character_references_in_an_attribute(value, expected):
    assert unescape_attribute(value) == expected
    assert list(tokens(f'<a b="{value}">')) == [StartTag("a", {"b": expected})]
    assert html5lib_tokens(f'<a b="{value}">') == [StartTag("a", {"b": expected})]


def test_every_name_in_an_attribute():
    for name, expected in html5.items():
        assert unescape_attribute(f"&{name}") == expected
        for following in "=a0":
            value = f"&{name}{following}"
            is_closed = name.endswith(";")
            assert unescape_attribute(value) == (expected + following if is_closed else value)


def merged(parts) -> list:
    """Join adjacent pieces of text."""
    result: list = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return result


def html5lib_tokens(html: str) -> list:
    """Tokenize with html5lib, told about raw text as its tree builder does."""
    tokenizer = HTMLTokenizer(html)
    kinds = {number: name for name, number in tokenTypes.items()}
    parts: list = []
    for token in tokenizer:
        kind = kinds[token["type"]]
        if kind in ("Characters", "SpaceCharacters"):
            parts.append(token["data"])
        elif kind == "EndTag":
            parts.append(EndTag(token["name"]))
        elif kind == "StartTag":
            name, closes_itself = token["name"], token["selfClosing"]
            parts.append(StartTag(name, dict(token["data"]), closes_itself))
            if not closes_itself:
                if name == "script":
                    tokenizer.state = tokenizer.scriptDataState
                elif name == "plaintext":
                    tokenizer.state = tokenizer.plaintextState
                elif name in RAW_TEXT:
                    tokenizer.state = tokenizer.rawtextState
                elif name in ESCAPABLE_RAW_TEXT:
                    tokenizer.state = tokenizer.rcdataState
    return merged(parts)


PIECES = [
    "<", ">", "/", "</", "<!--", "-->", "--!>", "<!", "<?", "=", '"', "'", " ", "\n", "-", "!",
    "a", "b", "<a href=x>", "</a>", "<p", "</p", "<script", "</script", "<script>", "</script>",
    "<style>", "</style>", "<title>", "</title>", "<textarea>", "</textarea >", "<plaintext>",
    "&amp;", "&lt", "&", "&#65;", "text", "<br/>", 'x="1"', "y='2'", "A",
]  # fmt: skip


@settings(max_examples=400)
@example("<p <=&lt=>")
@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
def test_the_same_tokens_as_html5lib(html):
    assert merged(tokens(html)) == html5lib_tokens(html)


REFERENCES = [
    "&lt", "&lt;", "&amp", "&notit;", "&not", "&copy", "&Lt", "&unknown", "&#38", "&#x26;", "&#;",
    "&", ";", "=", "a", "1", " ", "é",
]  # fmt: skip


@settings(max_examples=400)
@given(
    value=st.lists(st.sampled_from(REFERENCES), max_size=8).map("".join),
    quote=st.sampled_from(["", "'", '"']),
)
def test_the_same_values_of_attributes_as_html5lib(value, quote):
    html = f"<a b={quote}{value}{quote}>{value}"
    assert merged(tokens(html)) == html5lib_tokens(html)


@needs_shared_data
def test_real_pages_give_the_same_tokens_as_html5lib():
    pages = [page for page in read_warc([REAL_CRAWL]) if page.content_type == "text/html"]
    assert len(pages) > 10
    for page in pages:
        html = page.payload.decode("utf-8", "replace").replace("\r\n", "\n")
        assert merged(tokens(html)) == html5lib_tokens(html)


NEVER_ENDING = [
    "<a ", "<a", "<", "</", "<!--", "<!", "<?", "<!-", "<script>", "<script><!--", "</script",
    "<p>", "<script><!--<script>", "<title>", "<style></styl", "<a b=", '<a b="', "<a b='c", "&",
    '<a "=', "&#", "&#0", "&#9", "&lt", " ", "\n", "<a/", "<a =", "-->", "--", '"', '<a b=c"',
    "<textarea><",
]  # fmt: skip


@pytest.mark.parametrize("piece", NEVER_ENDING)
def test_work_grows_with_the_length_and_not_with_its_square(piece):
    """Count the executed lines of html_tokens.py, and bound the characters that its patterns
    read.
    """

    def lines(html: str) -> int:
        count = 0

        def trace(frame, event, _):
            nonlocal count
            if not frame.f_code.co_filename.endswith("html_tokens.py"):
                return None
            count += event == "line"
            return trace

        sys.settrace(trace)
        try:
            list(tokens(html))
        finally:
            sys.settrace(None)
        return count

    few, many = lines(piece * 300), lines(piece * 600)
    assert many <= 2.1 * few + 50


def test_a_tag_that_never_ends_is_read_once():
    """A scan that reaches the end of the page is the last one, because the generator ends there."""
    for piece in ("<a ", "<!--", '<a b="', "<? ", "<script>"):
        parts = list(tokens("x" + piece * 1000))
        assert len([part for part in parts if not isinstance(part, StartTag)]) <= 2
        assert len(re.findall("x", "".join(p for p in parts if isinstance(p, str)))) >= 1
