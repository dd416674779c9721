"""a3_data.1 and a3_data.2 on drawn inputs: the space of each graded function."""

from functools import cache

from hypothesis import strategies as st
from text_strategies import texts

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within

NAME = "data_pipeline.text_extraction."
LONG = "A paragraph that is long enough to be judged by itself, with some words more."

# a3_data.1

TAGS = ["p", "p", "p", "li", "td", "tr", "dt", "dd", "pre", "h2", "div", "title"]
densities = st.one_of(st.sampled_from([0.0, 0.0, 0.0, 1.0, 0.5, 0.51, 0.6, 0.75]), st.floats(0, 1))
lengths = near_constants(st.sampled_from([1, 5, 39, 40, 41, 80, 100, 160]), 1, 2000)
block_texts = st.one_of(
    lengths.map(lambda size: ("word " * size)[: size - 1] + "x"),
    lengths.map(lambda size: " x" + " " * size),
    st.sampled_from(["a\nb", "x", LONG, "cell", " padded "]),
)
blocks = st.lists(st.tuples(block_texts, st.sampled_from(TAGS), densities), max_size=9)


def made_blocks(module, drawn):
    return [module.Block(*each) for each in drawn]


def is_content(module, blocks):
    return [bool(kept) for kept in module.is_content(made_blocks(module, blocks))]


def join_blocks(module, blocks):
    return module.join_blocks(made_blocks(module, blocks))


def join_row(module, blocks, first):
    collector = module.BlockCollector(module.DROPPED_TAGS)
    collector.blocks = made_blocks(module, blocks)
    collector.join_row(min(first, len(blocks)))
    return [
        (block.text, block.tag, Within(float(block.link_density), 1e-9, 1e-12))
        for block in collector.blocks
    ]


@st.composite
def rows(draw):
    cell = st.sampled_from(["td", "td", "td", "th", "td", "p"])
    short = st.sampled_from(["a", "Tom", " x ", "Next", "a longer cell of words", "a\nb"])
    each = draw(st.lists(st.tuples(short, cell, densities), max_size=5))
    return {"blocks": each, "first": draw(st.integers(0, 2))}


def take_text(module, calls):
    collector = module.BlockCollector(module.DROPPED_TAGS)
    for data, in_link, in_pre, dropped in calls:
        collector.in_link, collector.pre_depth = in_link, int(in_pre)
        collector.open_dropped = ["nav"] if dropped else []
        collector.take_text(data)
    return "".join(collector.pieces), collector.text_characters, collector.link_characters


SIGNS = ["¶", "#", " § ", "##", "a  b", "\n", "\xa0\xa0x", "a\t\n\r\fb", "\x0b"]
pieces_of_text = st.one_of(texts(), st.sampled_from(SIGNS))
sometimes = st.sampled_from([False, False, True])
calls_of_take_text = st.tuples(pieces_of_text, sometimes, sometimes, sometimes)

HTML = [
    "<p>", "</p>", "<div>", "</div>", "<ul><li>", "<li>", "</ul>", "<table><tr><td>", "<td>",
    "</td>", "</tr>", "</table>", "<pre>", "</pre>", "<br>", "<a href=x>", "</a>", "<a name=y>",
    "<nav>", "</nav>", "<form>", "</form>", "<header>", "</header>", "<script>", "</script>",
    "<dl><dt>", "<dd>", "</dl>", "<title>", "</title>", "<h1>", "</h1>", "<div role=navigation>",
    "<!-- c -->", "&amp;", "&nbsp;",
]  # fmt: skip
WORDS = [LONG, LONG, f"{LONG} Other.", "short", "Menu", " ", "\n", "¶", "a  b", "x" * 39, "x" * 40]
html = st.lists(
    st.one_of(st.sampled_from(HTML), st.sampled_from(WORDS), st.sampled_from(HTML)), max_size=16
).map("".join)
pages = st.one_of(html, html.map(lambda page: f"<title>A title</title><p>{LONG}</p>{page}"))


@st.composite
def payloads(draw):
    charset = draw(st.sampled_from(["", "utf-8", "latin-1", "shift_jis", "no-such"]))
    text = (
        draw(pages) + draw(texts()) + draw(st.sampled_from(["", "\0", "é", "[a](b) <b>", "\r\n"]))
    )
    known = charset if charset in ("latin-1", "shift_jis") else "utf-8"
    kinds = ["text/html", "text/html", "application/xhtml+xml", "text/markdown", "text/x-rst",
             "text/plain", "image/png", "application/json", ""]  # fmt: skip
    return {
        "payload": text.encode(known, "replace"),
        "content_type": draw(st.sampled_from(kinds)),
        "http_charset": charset,
    }


PAGES = [
    Space(
        "a3_data.1",
        f"{NAME}BlockCollector.take_text",
        arguments({"calls": st.lists(calls_of_take_text, max_size=5)}),
        call=take_text,
    ),
    Space("a3_data.1", f"{NAME}BlockCollector.join_row", rows(), call=join_row),
    Space(
        "a3_data.1", f"{NAME}is_content", arguments({"blocks": blocks}), call=is_content, draws=60
    ),
    Space("a3_data.1", f"{NAME}join_blocks", arguments({"blocks": blocks}), call=join_blocks),
    Space("a3_data.1", f"{NAME}extract_html_text", arguments({"html": pages}), draws=60),
    Space("a3_data.1", f"{NAME}extract_text", payloads(), draws=60),
]  # fmt: skip


# a3_data.2

SENTENCES = [
    "The committee met on Tuesday to discuss the rules.", "Der Ausschuss traf sich am Dienstag.",
    "위원회는 화요일에 모였다.", "Le comité s'est réuni mardi.", "委員会は火曜日に開かれた。",
    "El comité se reunió el martes.", "Комитет собрался во вторник.", "x", "123", "yes yes yes",
]  # fmt: skip


@st.composite
def texts_of_languages(draw):
    sentence = st.one_of(st.sampled_from(SENTENCES), st.sampled_from(SENTENCES), texts())
    ends = st.sampled_from([" ", "\n", "\r\n", "\t", "  ", "\u3000", ""])
    each = draw(st.lists(st.tuples(sentence, ends), max_size=4))
    most = st.sampled_from([20_000, 20_000, 10, 1, 40])
    return {
        "text": "".join(part for pair in each for part in pair),
        "most": draw(near_constants(most, 1, 50_000)),
    }


@cache
def identifier(module):
    return module.LanguageIdentifier(module.language_model_path())


def identify(module, text, most):
    found = identifier(module).identify(text, most)
    return found.code, Within(float(found.confidence), 1e-5, 1e-6), found.confidence <= 1


def failed_language_rule(module, code, confidence, **settings):
    language = module.Language(code, confidence)
    return module.failed_language_rule(language, module.LanguageSettings(**settings))


LANGUAGES = [
    Space(
        "a3_data.2",
        "data_pipeline.language_id.LanguageIdentifier.identify",
        texts_of_languages(),
        call=identify,
        draws=40,
    ),
    Space(
        "a3_data.2",
        "data_pipeline.language_id.failed_language_rule",
        arguments(
            {
                "code": st.sampled_from(["en", "de", "ko", "", "e"]),
                "confidence": st.sampled_from([0.0, 0.39, 0.4, 0.41, 0.5, 1.0]),
                "languages": st.sampled_from([["en"], ["en", "ko"], ["de"]]),
                "min_confidence": st.sampled_from([0.0, 0.4, 0.5, 1.0]),
            }
        ),
        call=failed_language_rule,
    ),
]

test_as_the_reference, test_contracts = drawn_checks([*PAGES, *LANGUAGES])
