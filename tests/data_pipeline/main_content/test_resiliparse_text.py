"""The engine resiliparse: what of a page it keeps, and that no page makes it slow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import text_extraction
from data_pipeline.main_content.resiliparse_text import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    extract_main_content,
    is_costly,
    page_text,
)
from data_pipeline.sources.warc_files import Page
from data_pipeline.text_extraction import extract_html_text

pytest.importorskip("resiliparse", reason="needs resiliparse: run `make setup`")

LONG = "A paragraph that is long enough to be judged by itself, with some words more."
PAGE = f"""<html><head><title>Cats</title><style>p {{}}</style></head><body>
  <main><div><div>
  <nav><ul><li><a href="/">Home</a><li><a href="/a">Products</a></ul></nav>
  <h1>About cats</h1><p>{LONG}</p><script>var x = "no";</script>
  <p>{LONG} Its energy is <math><mi>E</mi><mo>=</mo><mn>2</mn></math>; see
  <a href="https://x.org/secret">here</a>.<img src="x" alt="a picture"></p>
  <ul><li>first item of a list</li><li>second item of a list</li></ul><p>{LONG}</p>
  <table><tr><th>Name</th><th>Age</th></tr><tr><td>Tom</td><td>3</td></tr></table>
  <pre>def f():
    if x:

        return  1 &lt; 2</pre>
  <p>x&nbsp;y\0</p></div></div></main><footer><p>Imprint</p></footer></body></html>"""


def test_lists_tables_code_and_formulas_are_text():
    text = page_text(Page("u", "text/html", PAGE.encode(), "utf-8"), "resiliparse")
    assert text == (
        f"About cats\n\n{LONG}\n\n{LONG} Its energy is E=2; see here.\n\n"
        f"  • first item of a list\n  • second item of a list\n\n{LONG}\n\n"
        "Name\t\tAge\nTom\t\t3\n"
        "def f():\n    if x:\n\n        return  1 < 2\n\nx y"
    )


@pytest.mark.parametrize("extractor", ["lesson", "resiliparse"])
@pytest.mark.parametrize(
    ("codec", "charset"),
    [("utf-8", ""), ("cp949", "euc-kr"), ("cp932", "shift_jis"), ("cp1252", "windows-1252")],
)
def test_both_read_the_same_characters(extractor, codec, charset):
    words = {"cp949": "한국어 문서", "cp932": "日本語の文書"}.get(codec, "“Größe” – déjà")
    html = f"<meta charset={charset or 'utf-8'}><p>{LONG} {words}</p>"
    text = page_text(Page("u", "text/html", html.encode(codec), ""), extractor)
    assert text == f"{LONG} {words}"


@pytest.mark.parametrize("extractor", ["lesson", "resiliparse"])
def test_other_types_are_read_alike(extractor):
    assert page_text(Page("u", "image/png", b"\x89PNG", ""), extractor) is None
    assert page_text(Page("u", "text/plain", b"a <I> b", ""), extractor) == "a <I> b"
    assert page_text(Page("u", "text/html", b"<html></html>", ""), extractor) == ""


@given(st.binary(max_size=300), st.sampled_from(["", "latin-1", "utf-16", "gb18030"]))
def test_any_bytes_give_text_that_can_be_stored(payload, charset):
    page_text(Page("u", "text/html", payload, charset), "resiliparse").encode("utf-8")


ATTRIBUTES = [f"a{number}" for number in range(MAX_ATTRIBUTES + 1)]


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * (MAX_DEPTH + 1),
        "<DIV class=a><p>" * (MAX_DEPTH + 1),
        "</div>" * MAX_DEPTH + "<article>" * (MAX_DEPTH + 1),
        "<p " + " ".join(ATTRIBUTES) + ">",
        "<p " + "".join(f"{name}='<'" for name in ATTRIBUTES) + ">",
        "<p " + "/".join(f'{name}=">"' for name in ATTRIBUTES) + ">",
    ],
)
def test_a_page_that_takes_quadratic_time_is_read_by_the_lesson(html, monkeypatch):
    page = f"<p>{LONG}</p>" + html + f"<p>{LONG}</p>"
    assert is_costly(page)
    monkeypatch.setattr(text_extraction, "extract_html_text", lambda given: f"lesson {len(given)}")
    assert extract_main_content(page) == f"lesson {len(page)}"


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * MAX_DEPTH,
        "<div></div>" * 5000,
        "<divider>" * 5000,
        "<p a=b>c d e</p>" * 9000,
        f"<img src='data:{'x' * 100_000}'>",
    ],
)
def test_usual_pages_are_not_costly(html):
    assert not is_costly(html)


def test_nesting_of_other_tags_is_no_danger():
    """100,000 levels neither overflow the stack nor lose the text."""
    for tag in ("b", "span", "section", "blockquote"):
        assert extract_main_content(f"<{tag}>" * 100_000 + f"<p>{LONG}</p>") == LONG
    assert extract_html_text("<div>" * 100_000 + f"<p>{LONG}</p>") == LONG
