"""HTML to text on hand-made pages, encodings, plain text, and real pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import REAL_CRAWL, needs_shared_data

from data_pipeline.sources.python_documentation import render_batch
from data_pipeline.sources.warc_files import read_warc
from data_pipeline.text_extraction import (
    Block,
    extract_html_text,
    extract_text,
    is_content,
)

LONG = "A paragraph that is long enough to be judged by itself, with some words more."
MENU = (
    '<ul><li><a href="/">Home page of the site</a>'
    '<li><a href="/a">All products, all prices</a></ul>'
)


def test_a_page_by_hand():
    html = f"""<html><head><title>Cats</title><style>p {{}}</style></head>
      <body><header>Banner</header>{MENU}
      <h1>About cats</h1><p>{LONG}</p><script>var x = "<p>no</p>";</script>
      <ul><li>first item of a list<li>second item of a list</ul><p>{LONG}</p>
      <table><tr><th>Name</th><th>Age</th></tr>
      <tr><td>Tom</td><td>3</td></tr></table>
      <pre>def f():\n    return  1</pre><aside>Ads</aside>{MENU}
      <footer>Imprint</footer></body></html>"""
    assert extract_html_text(html) == (
        f"Cats\n\nAbout cats\n\n{LONG}\n\n"
        f"- first item of a list\n- second item of a list\n\n{LONG}\n\n"
        "Name | Age\nTom | 3\n\ndef f():\n    return  1"
    )


def test_spaces_are_collapsed_but_no_break_spaces_indent():
    html = (
        f"<p>{LONG}</p><p>if  \n x:<br>\n&nbsp;&nbsp;return&nbsp;&lt;y&gt; and more to be long</p>"
    )
    assert extract_html_text(html).endswith("if x:\n  return <y> and more to be long")


def test_definitions_are_indented_below_their_term():
    html = f"<dl><dt>fill(self, text)<dd>{LONG}</dd><dt>wrap(self)<dd>{LONG}</dd></dl>"
    assert extract_html_text(html) == f"fill(self, text)\n    {LONG}\n\nwrap(self)\n    {LONG}"


@pytest.mark.parametrize("tag", ["script", "style", "nav", "header", "footer", "aside", "form"])
def test_dropped_elements_leave_nothing(tag):
    assert (
        extract_html_text(f"<p>{LONG}</p><{tag}>{LONG} secret</{tag}><p>{LONG}</p>")
        == f"{LONG}\n\n{LONG}"
    )


@pytest.mark.parametrize("tag", ["div", "section", "table", "ul"])
def test_an_element_with_a_role_of_navigation_is_dropped_with_those_inside_it(tag):
    inside = f"<{tag}><{tag}>{LONG}</{tag}></{tag}>"
    for role in ("navigation", "Contentinfo"):
        page = f"<p>{LONG}</p><{tag} role={role}>{inside}{LONG}</{tag}><p>{LONG}</p>"
        assert extract_html_text(page) == f"{LONG}\n\n{LONG}"
    assert extract_html_text(f"<{tag} role=main>{LONG}</{tag}>") == LONG
    assert extract_html_text(f"{LONG}<p role=navigation>{LONG}") == f"{LONG}\n\n{LONG}"


def test_a_row_of_links_around_a_title_is_a_menu_and_a_row_with_one_link_is_not():
    def row(*cells):
        return f"<table><tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></table>"

    link, text = '<a href="x">Next</a>', "Chapter 5. Tables"
    assert (
        extract_html_text(f"<p>{LONG}</p>{row(link, text, link)}<p>{LONG}") == f"{LONG}\n\n{LONG}"
    )
    for cells in ((link, text, "5"), (link, text)):
        words = " | ".join("Next" if cell == link else cell for cell in cells)
        page = f"<p>{LONG}</p>{row(*cells)}<p>{LONG}"
        assert extract_html_text(page) == f"{LONG}\n\n{words}\n\n{LONG}"


def test_the_link_of_a_heading_to_itself_is_not_text():
    html = f'<h1>Cats<a href="#cats">¶</a></h1><p>{LONG} <a>#</a> § <a href="x">#5</a></p>'
    assert extract_html_text(html) == f"Cats\n\n{LONG} # § #5"


def test_a_page_inside_a_form_is_not_lost():
    assert extract_html_text(f"<form><p>{LONG}</p><script>x</script></form>") == LONG


def block(text: str, link_density: float = 0.0) -> Block:
    return Block(text, "p", link_density)


def test_short_blocks_follow_their_neighbours():
    blocks = [
        block("Menu title"),
        block("Home", 1.0),
        block("Heading"),
        block(LONG),
        block("a short line"),
        block(LONG),
        block("last words"),
        block("Related pages"),
        block(LONG, 1.0),
        block("Imprint"),
    ]
    assert is_content(blocks) == [False, False, True, True, True, True, True, False, False, False]


def test_a_page_of_short_lines_keeps_what_is_no_link():
    assert is_content([block("one"), block("two", 1.0)]) == [True, False]


def test_a_block_with_much_text_outside_its_links_is_no_menu():
    links = '<a href="x">a rather long link text, of 60 characters in all, is here</a> '
    few, enough = "with 20 characters. ", "with 20 characters, and then some more of them."
    assert extract_html_text(f"<p>{LONG}<p>{links}{enough}").endswith("more of them.")
    assert extract_html_text(f"<p>{LONG}<p>{links}{few}") == LONG


def test_long_text_made_of_links_is_dropped_and_a_few_links_are_not():
    linked = f'<p>{LONG} See <a href="x">here</a>.</p>'
    assert "See here." in extract_html_text(linked)
    assert extract_html_text(f'<p>{LONG}</p><p><a href="x">{LONG}</a></p>') == LONG


@given(st.binary(max_size=300), st.sampled_from(["", "utf-8", "latin-1", "shift_jis", "utf-16"]))
def test_any_bytes_give_text_that_can_be_stored(payload, charset):
    for content_type in ("text/html", "text/plain"):
        extract_text(payload, content_type, charset).encode("utf-8")


def test_control_characters_of_a_page_are_dropped():
    assert extract_text(f"<p>{LONG}\0\x08</p>".encode(), "text/html") == LONG


def test_other_content_types_are_no_text():
    assert extract_text(b"\x89PNG", "image/png") is None
    assert extract_text(b"<p></p>", "text/html") == ""


def test_a_pydoc_page_reads_like_text():
    [(_, html, _)] = render_batch(["textwrap"], 20)
    text = extract_html_text(html)
    assert text.startswith("Python: module textwrap\n\n")
    assert (
        "    Reformat the single paragraph in 'text' to fit in lines of no\n    more than" in text
    )
    for noise in ("index", "Module Reference", "\xa0", "<br>", "file:", "&"):
        assert noise not in text


@needs_shared_data
def test_a_real_page_without_its_menu():
    page = next(p for p in read_warc([REAL_CRAWL]) if p.url == "http://www.iana.org/numbers")
    text = extract_text(page.payload, page.content_type, page.charset)
    assert "IANA is responsible for global coordination" in text
    assert "APNIC | Asia/Pacific Region" in text
    assert "Root Zone Management" not in text, "an entry of the menu"
