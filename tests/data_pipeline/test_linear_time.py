"""Twice the page, twice the work: every pattern of the package, and every function that a page's
text goes through.

Work is CPU time of this process, compared with that on a shorter input in the same run. A quadratic
pattern needs millions of steps for the few thousand characters of the first look, where others need
thousands. Patterns that are slow there are measured at four times the length: 4 times the time if
the work is linear, 16 times if it is quadratic. Functions get a second look at 16 times the length,
for they may do cheap steps in quadratic number: copies of what is left, marks that are sorted. Some
are so cheap that only a long input shows it; these are listed in LONG_INPUTS.
"""

import ast
import gc
import gzip
import importlib
import itertools
import math
import pkgutil
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import regex

import data_pipeline
from data_pipeline.decontamination import DecontaminationSettings, EvaluationIndex
from data_pipeline.exact_dedup import (
    ExactDedupSettings,
    documents_of_each_line,
    drop_repeated_lines,
    drop_repeated_paragraphs,
)
from data_pipeline.executors.page_time_limit import time_limit
from data_pipeline.html.page_encoding import decode, decode_page, prescan
from data_pipeline.instructions.docstring_answers import answer_of, simplify_markup
from data_pipeline.main_content.resiliparse_text import is_costly
from data_pipeline.minhash_dedup import normalize
from data_pipeline.personal_data import mask_personal_data
from data_pipeline.quality_rules import (
    RULES,
    duplicate_ngram_character_share,
    top_ngram_character_share,
)
from data_pipeline.rule_sets.rule_verdicts import RuleSettings, measure_rules
from data_pipeline.rule_sets.text_statistics import TextStatistics
from data_pipeline.sources.http_responses import (
    Answer,
    UnreadableAnswer,
    join_chunks,
    parse_answer,
    split_content_type,
    unpacked_body,
)
from data_pipeline.sources.warc_records import parse_headers
from data_pipeline.substring_dedup import drop_repeated_spans
from data_pipeline.text_extraction import extract_text

PACKAGE = Path(data_pipeline.__path__[-1])
SOURCES = sorted(PACKAGE.rglob("[!_]*.py"))
LIBRARIES = {"re": re, "regex": regex}
FIRST_LOOK = 1_500  # characters
SECOND_LOOK = 16 * FIRST_LOOK
LONG = 50_000
SUSPICIOUS = 0.5e-3  # seconds: a faster pattern is not quadratic
SLOW_FUNCTION = 5e-3  # the same for functions
LIMIT = 120  # seconds: exponential
MOST_TURNS = 25  # of a measurement, before it counts as a failure

PIECES = [
    " ", "\n", "\t", "a", "1", "A", ".", "a.", "1.", "a ", "a\n", " \n", "\n ", "\n \n", "-", "- ",
    "=", "#", "...", "@", "a@", "a@a.", "255.", "(212) ", "212-", "+1", "[", "![", "[![", "](",
    "[a](", "![a](", "[![a](b)](", "(", ")", "(a)", "[a]", "![a]", '[a](b "', "<!--", "<!-- -->",
    "-->", "<", "<p", "<p ", "<a ", "</", "<a b=", '<a b="', "<p>a", "<dd>a", "<nav>", "</nav>",
    "<tr><td>a", "<pre>\n", "<br>", "<a href=b>a", "<script>", "<title>", "`", "``", "`a <", "`a",
    ":a:", ":a:`", ":a:`a <", ":", "|", "|a| ", ".. _a", ".. image::", ".. image:: a\n :b\n",
    "[a]: ", "[a", "&", "&#", "&#0", "&nbsp;", "&nbsp;at&nbsp;0x", "charset", "charset =",
    "charset=a", 'charset="', "encoding", 'encoding="', "meta ", "<meta ", "<meta charset=x ", "\r",
    "\r\n", "0\r\n", "1\r\na", ";", "HTTP/1.1 ", "WARC/1", "\x1b$B", "\xff", "é", "e\u0301",
    "\u0316\u0301", "\uff9e\u0301", "\u0316\u200b\u0301", "。", "中", "\u200b", "{", ">>>",
    "def f(", "->", "a. ", "x.y(", " a\n", "a: b\n",
]  # fmt: skip
PREFIXES = ["", "a", "`", "[a](", "<!--"]
SUFFIXES = ["", "x"]


Maker = Callable[[int], str]  # of an input of any number of characters
Work = Callable[[str], object]


def repeated(piece: str, prefix: str = "", suffix: str = "") -> Maker:
    return lambda length: prefix + piece * (length // len(piece)) + suffix


def cpu_seconds(work: Work, text: str) -> float:
    """Return the time of one run, without the collection of garbage."""
    gc.disable()
    try:
        started = time.process_time()
        work(text)
        return time.process_time() - started
    finally:
        gc.enable()


def check_growth(name: str, work: Work, make: Maker, length: int, times: int, slow: float) -> None:
    """Assert that `times` the length takes at most twice `times` the time.

    Both lengths take turns, and the smallest time of each counts: other programs make some turns
    slow, but no turn makes quadratic work linear.
    """
    short, long = make(length), make(times * length)
    once = more = math.inf
    for turn in range(MOST_TURNS):
        once = min(once, cpu_seconds(work, short))
        more = min(more, cpu_seconds(work, long))
        if turn >= 2 and more < 2 * times * once + slow:
            return
    pytest.fail(
        f"{name} takes {more / once:.1f} times as long for {times} times the length of "
        f"{make(12)!r}..."
    )


def first_look(name: str, work: Work, slow: float, prefixes: list[str]) -> None:
    with time_limit(LIMIT):
        for prefix, piece, suffix in itertools.product(prefixes, PIECES, SUFFIXES):
            make = repeated(piece, prefix, suffix)
            if cpu_seconds(work, make(FIRST_LOOK)) >= slow:
                check_growth(name, work, make, 2 * FIRST_LOOK, 4, slow)


def second_look(name: str, work: Work, slow: float) -> None:
    with time_limit(LIMIT):
        for piece in PIECES:
            make = repeated(piece, "a")
            short, long = cpu_seconds(work, make(FIRST_LOOK)), cpu_seconds(work, make(SECOND_LOOK))
            if long > 2 * SECOND_LOOK / FIRST_LOOK * short + slow:
                check_growth(name, work, make, SECOND_LOOK // 4, 4, slow)


def patterns() -> dict[str, tuple[re.Pattern, set[str]]]:
    """Return every compiled pattern of a module, and every pattern written in a call, with the
    methods that are called on it ("sub" if that is unknown).
    """
    found: dict[str, tuple[re.Pattern, set[str]]] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        methods: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                name = owner.id if isinstance(owner, ast.Name) else ""
                methods.setdefault(name, set()).add(node.func.attr)
                is_pattern = name in LIBRARIES and node.func.attr != "compile"
                if is_pattern and node.args and isinstance(node.args[0], ast.Constant):
                    pattern = LIBRARIES[name].compile(node.args[0].value)
                    found[f"{path.stem}, line {node.lineno}"] = pattern, {node.func.attr}
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        module = importlib.import_module(".".join(("data_pipeline", *inside)))
        for name, value in vars(module).items():
            for number, item in enumerate(value if isinstance(value, tuple) else [value]):
                item = item[0] if isinstance(item, tuple) and item else item
                if isinstance(item, re.Pattern | regex.Pattern):
                    label = f"{path.stem}.{name}" + (f"[{number}]" if item is not value else "")
                    found[label] = item, methods.get(name, {"sub"})
    return found


PATTERNS = patterns()


def test_the_patterns_are_found():
    assert len(PATTERNS) >= 50
    for name in ("plain_pages.MARKUP_PATTERNS[3]", "docstring_answers.ROLE"):
        assert name in PATTERNS
    modules = pkgutil.walk_packages(data_pipeline.__path__, "data_pipeline.")
    found = {module.name.rpartition(".")[2] for module in modules if not module.ispkg}
    assert found == {path.stem for path in SOURCES}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_takes_time_in_proportion_to_its_input(name):
    pattern, methods = PATTERNS[name]
    anchored = methods <= {"match", "fullmatch"}

    def work(text: str) -> object:
        subject = text.encode("utf-8") if isinstance(pattern.pattern, bytes) else text
        return pattern.match(subject) if anchored else pattern.sub(subject[:0], subject)

    first_look(name, work, SUSPICIOUS, PREFIXES)


def lines_dropped(text: str) -> object:
    counts = documents_of_each_line([text] * 2)
    settings = ExactDedupSettings(max_documents_per_line=1, min_line_characters=2)
    return drop_repeated_lines(text, counts, settings)


def as_bytes(function: Callable[[bytes], object]) -> Callable[[str], object]:
    return lambda text: function(text.encode("utf-8"))


GZIP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip"


def or_refused(function: Callable[[bytes], object]) -> Callable[[str], object]:
    def call(page: bytes) -> object:
        try:
            return function(page)
        except UnreadableAnswer:
            return None

    return as_bytes(call)


def many_members(text: str) -> object:
    """Unpack empty gzip members, with zeros after the last one."""
    body = gzip.compress(b"") * (len(text) // 50) + bytes(9 * len(text))
    return unpacked_body(Answer(200, GZIP_HEAD, body), 1_000)


EVALUATION_INDEX = EvaluationIndex(
    {"words": ["a", "a a", "1 1 1"]}, DecontaminationSettings(min_item_words=1)
)
FUNCTIONS: dict[str, Callable[[str], object]] = {
    "HTML": as_bytes(lambda page: extract_text(page, "text/html", "utf-8")),
    "plain text": as_bytes(lambda page: extract_text(page, "text/plain", "utf-8")),
    "Markdown": as_bytes(lambda page: extract_text(page, "text/markdown", "utf-8")),
    "costly for resiliparse": is_costly,
    "page without a charset": as_bytes(decode_page),
    "prescan": as_bytes(prescan),
    "EUC-JP": as_bytes(lambda page: decode(page, "euc-jp")),
    "ISO-2022-JP": as_bytes(lambda page: decode(page, "iso-2022-jp")),
    "GBK": as_bytes(lambda page: decode(page, "gbk")),
    "personal data": mask_personal_data,
    "repeated lines": lines_dropped,
    "repeated paragraphs": lambda text: drop_repeated_paragraphs(text, set(), ExactDedupSettings()),
    "repeated spans": lambda text: drop_repeated_spans([text, text], 50),
    "contaminations": EVALUATION_INDEX.contaminations,
    "near duplicates": normalize,
    "docstring": lambda text: answer_of(text, 20, 400),
    "markup": simplify_markup,
    "content type": split_content_type,
    "chunks": or_refused(join_chunks),
    "HTTP": or_refused(lambda page: parse_answer(b"HTTP/1.1 200 OK\r\n" + page).headers),
    "headers": as_bytes(lambda page: parse_headers((b"a: " + page).split(b"\n"))),
    "body": or_refused(lambda page: unpacked_body(Answer(200, GZIP_HEAD, page), 10**6)),
    "gzip members": many_members,
    "rules of every set": lambda text: measure_rules(text, RuleSettings()),
    "top 4-gram by itself": lambda text: top_ngram_character_share(text.split(), 4),
    "duplicate 5-grams by themselves": lambda text: duplicate_ngram_character_share(
        text.split(), 5
    ),
    **{name: lambda text, rule=rule: rule.measure(TextStatistics(text))
       for name, rule in RULES.items()},
}  # fmt: skip


LONG_INPUTS = [("headers", " a\n"), ("headers", "a: b\n"), ("gzip members", "any")]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_time_in_proportion_whatever_the_input_begins_with(name):
    first_look(name, FUNCTIONS[name], SLOW_FUNCTION, PREFIXES[1:])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_time_in_proportion_to_its_input(name):
    first_look(name, FUNCTIONS[name], SLOW_FUNCTION, PREFIXES[:1])
    second_look(name, FUNCTIONS[name], SLOW_FUNCTION)


@pytest.mark.parametrize(("name", "piece"), LONG_INPUTS)
def test_a_function_takes_time_in_proportion_to_a_long_input(name, piece):
    with time_limit(LIMIT):
        check_growth(name, FUNCTIONS[name], repeated(piece, "a"), LONG, 8, SLOW_FUNCTION)
