"""a3_data.1: the main text of a page."""

import pytest

pytestmark = pytest.mark.task("a3_data.1")
MODULE = "data_pipeline.text_extraction"
LONG = "A paragraph that is long enough to be judged by itself, with some words more."
MENU = (
    '<ul><li><a href="/">Home page of the site</a>'
    '<li><a href="/a">All products, all prices</a></ul>'
)
PAGE = f"""<html><head><title>Cats</title><style>p {{}}</style></head>
<body><header>Banner</header>{MENU}
<h1>About cats<a href="#cats">¶</a></h1><p>{LONG}</p><script>var x = "<p>no</p>";</script>
<ul><li>first item of a list<li>second item of a list</ul><p>{LONG}</p>
<table><tr><th>Name</th><th>Age</th></tr>
<tr><td>Tom</td><td>3</td></tr></table>
<pre>def f():
    return  1</pre><aside>Ads</aside>{MENU}
<footer>Imprint</footer></body></html>"""
TEXT = (
    f"Cats\n\nAbout cats\n\n{LONG}\n\n"
    f"- first item of a list\n- second item of a list\n\n{LONG}\n\n"
    "Name | Age\nTom | 3\n\ndef f():\n    return  1"
)


def collector(module):
    return module.BlockCollector(module.DROPPED_TAGS)


def test_characters_inside_links(implementation, a3_data):
    made = collector(implementation(MODULE))
    made.take_text("see \n\n  the ")
    made.in_link = True
    made.take_text("whole  list")
    got = (made.pieces, made.text_characters, made.link_characters)
    causes = {
        "white space does not count as characters": lambda found: found[1] > 15,
        "count the characters inside links, too": lambda found: found[2] == 0,
        "a run of white space becomes one space": lambda found: "".join(found[0]).count(" ") > 4,
    }
    a3_data.expect(got, (["see the ", "whole list"], 15, 9), "the collector's counts", causes)


@pytest.mark.parametrize("sign", ["¶", "#", " § "])
def test_the_link_of_a_heading_to_itself(implementation, a3_data, sign):
    made = collector(implementation(MODULE))
    made.take_text("No. ")
    made.take_text(sign)
    made.in_link = True
    made.take_text(sign)
    got = ("".join(made.pieces), made.link_characters)
    causes = {"a link of one of PERMALINKS only is not text of the page": (f"No. {sign}{sign}", 1)}
    expected = (f"No. {sign}", 0)
    a3_data.expect(got, expected, f"the text of a link of {sign!r}", causes)


def test_text_in_pre_and_in_what_is_dropped(implementation, a3_data):
    made = collector(implementation(MODULE))
    made.pre_depth = 1
    made.take_text("a\n  b\xa0 c")
    made.pre_depth = 0
    made.take_text("\xa0 d \t\n")
    made.open_dropped = ["nav"]
    made.take_text("menu")
    got = (made.pieces, made.text_characters)
    causes = {
        "white space inside <pre> stays": lambda found: "a\n  b" not in "".join(found[0]),
        "U+00A0 is not collapsed: pages indent with it": lambda found: "\xa0 d" not in found[0],
        "nothing inside a dropped element is text": lambda found: "menu" in "".join(found[0]),
    }
    a3_data.expect(got, (["a\n  b\xa0 c", "\xa0 d "], 4), "pieces and characters", causes)


def row(module, *cells, before=()):
    """The blocks after join_row, as tuples."""
    made = collector(module)
    made.blocks = [module.Block(*each) for each in (*before, *cells)]
    made.join_row(len(before))
    return [(block.text, block.tag, round(block.link_density, 6)) for block in made.blocks]


def test_rows_of_a_table(implementation, a3_data):
    module = implementation(MODULE)
    for cells, expected, cause in [
        ([("Tom", "td", 0.0), (" 3", "td", 0.0)], [("Tom | 3", "tr", 0.0)], "cells are joined"),
        ([("Name", "th", 0.0), ("3", "td", 0.0)], [("Name | 3", "tr", 0.0)], "<th> is a cell"),
        ([("Tom", "td", 0.0)], [("Tom", "td", 0.0)], "one cell stays as it is"),
        (
            [("a\nb", "td", 0.0), ("c", "td", 0.0)],
            [("a\nb", "td", 0.0), ("c", "td", 0.0)],
            "a cell of several lines is layout: nothing is joined",
        ),
        (
            [("a", "td", 0.0), ("c", "p", 0.0)],
            [("a", "td", 0.0), ("c", "p", 0.0)],
            "a row with another block in it is layout",
        ),
        (
            [("Next", "td", 1.0), ("A chapter", "td", 0.0), ("Up", "td", 0.6)],
            [("Next | A chapter | Up", "tr", 0.666667)],
            "the density is that of the characters or the share of link cells, the larger",
        ),
        (
            [("Next", "td", 1.0), ("A chapter", "td", 0.5), ("5", "td", 0.0), ("x", "td", 0.0)],
            [("Next | A chapter | 5 | x", "tr", round(8.5 / 15, 6))],
            "the density of the characters weighs each cell by its length",
        ),
        (
            [("  ab", "td", 0.5), ("c", "td", 0.0)],
            [("ab | c", "tr", 0.4)],
            "a cell weighs as much as its text in the block, with the white space around it",
        ),
    ]:
        got = row(module, *cells)
        a3_data.expect(got, expected, f"join_row of {cells}", {cause: lambda _: True})
    before = [("Text", "p", 0.0)]
    got = row(module, ("a", "td", 0.0), ("b", "td", 0.0), before=before)
    a3_data.expect(got, [*before, ("a | b", "tr", 0.0)], "join_row behind another block")


def decided(module, *blocks):
    return module.is_content([module.Block(text, tag, links) for text, tag, links in blocks])


def p(text, links=0.0, tag="p"):
    return text, tag, links


FOLLOW = "a short block follows its neighbours: between two kept blocks it is kept"
TITLE = "of a short run that links follow, the last block is the title of the links, and is dropped"


@pytest.mark.parametrize(
    ("blocks", "expected", "cause"),
    [
        ([p(LONG), p("short"), p(LONG)], [True, True, True], FOLLOW),
        ([p(LONG), p("a"), p("b"), p(LONG)], [True] * 4, FOLLOW),
        ([p("a"), p(LONG), p("z")], [True] * 3, "at the ends, the one neighbour decides"),
        (
            [p(LONG, 1.0), p("a"), p("b"), p(LONG)],
            [False, True, True, True],
            "links before a run have their title before them: the run is kept",
        ),
        ([p(LONG), p("a"), p("b"), p("x", 1.0)], [True, True, False, False], TITLE),
        (
            [p("x", 1.0), p("a"), p("b"), p("y", 1.0), p(LONG)],
            [False] * 4 + [True],
            "between two link-heavy blocks, short ones are dropped",
        ),
        ([p("one"), p("two", 1.0)], [True, False], "without a long block, what is not links stays"),
        (
            [p("x", 1.0), p("x", tag="pre"), p("y", 1.0), p(LONG)],
            [False, True, False, True],
            "code (<pre>) is never short",
        ),
        ([p(LONG, 0.5)], [True], "a density of exactly the limit is not link-heavy"),
        ([p(LONG, 0.51)], [False], "more than half of it is links"),
        (
            [p("x" * 100, 0.6), p("x" * 100, 0.61)],
            [True, False],
            "a block with 40 characters outside its links is not a menu",
        ),
        ([p("x" * 40), p("y", 1.0), p("x" * 39)], [True, False, False], "40 characters are long"),
        (
            [p("x" * 30 + " " * 20), p(LONG, 1.0), p(LONG)],
            [False, False, True],
            "a text is measured without the white space around it",
        ),
        (
            [p("    " + "x" * 98, 0.6), p(LONG)],
            [True, True],
            "link-heavy: the length of the text counts, with its indentation",
        ),
        ([], [], "no blocks"),
    ],
    ids=[
        "between",
        "run-between",
        "ends",
        "links-before",
        "links-behind",
        "between-links",
        "no-long",
        "code",
        "half-links",
        "more-than-half",
        "text-beside-links",
        "forty",
        "padded",
        "indented",
        "nothing",
    ],
)
def test_which_blocks_are_content(implementation, a3_data, blocks, expected, cause):
    got = decided(implementation(MODULE), *blocks)
    shown = [(text[:12], links) for text, _, links in blocks]
    a3_data.expect(got, expected, f"is_content of {shown}", {cause: lambda _: True})


def test_blocks_are_joined(implementation, a3_data):
    module = implementation(MODULE)
    each = [
        p("- a", tag="li"), p("- b", tag="li"), p("text"), p("more"), p("x | y", tag="tr"),
        p("1 | 2", tag="tr"), p("term", tag="dt"), p("    what it is", tag="dd"),
        p("    and also", tag="dd"), p("one", tag="dt"), p("two", tag="dt"), p("- c", tag="li"),
    ]  # fmt: skip
    got = module.join_blocks([module.Block(text, tag, links) for text, tag, links in each])
    expected = (
        "- a\n- b\n\ntext\n\nmore\n\nx | y\n1 | 2\n\nterm\n    what it is\n\n    and also\n\n"
        "one\ntwo\n\n- c"
    )
    causes = {
        "inside a list, between rows and between terms, one line end is enough": lambda found: (
            found.count("\n") > expected.count("\n")
        ),
        "an empty line separates all other blocks": lambda found: (
            found.count("\n") < expected.count("\n")
        ),
    }
    a3_data.expect(got, expected, "join_blocks", causes)


def test_a_whole_page(implementation, a3_data):
    got = implementation(MODULE).extract_html_text(PAGE)
    causes = {
        "the text of the title comes first": lambda found: not found.startswith("Cats\n\n"),
        "the menus are still in it": lambda found: "products" in found,
        "scripts, headers and footers are dropped with all inside": lambda found: any(
            word in found for word in ("var x", "Banner", "Imprint", "Ads")
        ),
    }
    a3_data.expect(got, TEXT, "extract_html_text of a page", causes)


def test_the_title(implementation, a3_data):
    extract = implementation(MODULE).extract_html_text
    for html, expected, cause in [
        (f"<title>{LONG}</title><p>{LONG}</p>", LONG, "a title that repeats itself is given once"),
        ("<title>Only a title</title>", "", "a title alone is not the text of a page"),
        (
            f"<title>A</title><p>{LONG}</p><svg><title>B</title></svg><title>C</title>",
            f"A\n\n{LONG}",
            "the first title is the page's; others are not text",
        ),
        (f"<p>{LONG}</p>", LONG, "a page may have no title"),
        ("", "", "an empty page has no text"),
    ]:
        a3_data.expect(extract(html), expected, f"the text of {html!r}", {cause: lambda _: True})


def test_a_page_inside_a_form(implementation, a3_data):
    extract = implementation(MODULE).extract_html_text
    html = f"<title>T</title><form><p>{LONG}</p><script>x</script></form>"
    causes = {"if nothing is kept, read again with only ALWAYS_DROPPED_TAGS dropped": ""}
    a3_data.expect(extract(html), f"T\n\n{LONG}", "a page that is one form", causes)
    html = f"<title>T</title><p><a href=x>Home</a></p><form><p>{LONG}</p></form>"
    causes = {"blocks of links only are not kept: then, too, read again": ""}
    a3_data.expect(extract(html), f"T\n\n{LONG}", "a page of a menu and a form", causes)
    html = f"<form>{LONG} {LONG}</form><p>{LONG}</p>"
    causes = {"read again only if nothing is kept": f"{LONG} {LONG}\n\n{LONG}"}
    a3_data.expect(extract(html), LONG, "a page with a form and a text", causes)


@pytest.mark.parametrize(
    ("payload", "content_type", "charset", "expected"),
    [
        (f"<p>{LONG} é</p>".encode("latin-1"), "text/html", "iso-8859-1", f"{LONG} é"),
        (f"<p>{LONG} é</p>".encode(), "application/xhtml+xml", "utf-8", f"{LONG} é"),
        (f"<p>{LONG}\0\x08</p>".encode(), "text/html", "", LONG),
        (b"<script>x</script>", "text/html", "", ""),
        (b"# T <b>x</b>\n\n[a](http://b)", "text/markdown", "", "# T x\n\na"),
        (b"a <b>\r\nb\r\n\r\n\r\n", "text/plain", "utf-8", "a <b>\nb"),
        (b"\x89PNG", "image/png", "", None),
        (b"var x", "application/javascript", "", None),
    ],
    ids=["charset", "xhtml", "controls", "no-text", "markdown", "plain", "image", "script"],
)
def test_content_types(implementation, a3_data, payload, content_type, charset, expected):
    got = implementation(MODULE).extract_text(payload, content_type, charset)
    causes = {
        "a page without text gives \"\"; None is for what is not readable text": lambda found: (
            expected is not None and found is None
        ),
        "decode with the charset of the HTTP header (decode_page)": lambda found: (
            isinstance(found, str) and "\ufffd" in found
        ),
        "each kind has its function: clean_plain_text for markup, normalize_plain_text for text": (
            lambda found: expected is not None and content_type in ("text/markdown", "text/plain")
        ),
    }  # fmt: skip
    a3_data.expect(got, expected, f"extract_text of {content_type}", causes)
