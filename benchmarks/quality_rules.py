"""Quality rules against datatrove's filters: seconds and verdicts on the same texts.

    python benchmarks/quality_rules.py crawl.warc.gz --documents 500 --json results.json

It needs `pip install datatrove spacy`, which the project itself does not use. Both sides stop at
the first rule that a document breaks. datatrove splits words with spaCy; the rows "same words" give
it our words instead, which shows how much of a difference is theirs. Its C4 and FineWeb filters get
the thresholds of the papers, which its defaults are not. The two sides take turns, and the smallest
processor time of each counts.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)
from datatrove.utils.text import split_into_parts, split_into_words

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_pipeline.rule_sets.rule_verdicts import (
    RuleSet,
    RuleSettings,
    first_broken_rule,
)
from data_pipeline.sources.page_files import read_every_page
from data_pipeline.sources.page_rows import RowKeys
from data_pipeline.sources.warc_files import Page
from data_pipeline.text_extraction import extract_text

WORD_MODULES = (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter)
MAX_PAGE_BYTES = 3_000_000
CASES: dict[str, list[RuleSet]] = {
    "gopher": ["gopher"],
    "gopher_repetition": ["gopher_repetition"],
    "both of gopher": ["gopher", "gopher_repetition"],
    "c4": ["c4"],
    "fineweb": ["fineweb"],
    "all": ["gopher", "gopher_repetition", "c4", "fineweb"],
}


def read_texts(paths: list[Path], every: int, documents: int) -> list[str]:
    """Return the texts of every so many pages, from the first pages on."""
    pages = read_every_page(paths, MAX_PAGE_BYTES, RowKeys())
    texts = (
        extract_text(page.payload, page.content_type, page.charset)
        for page, _ in islice(pages, 0, None, every)
        if isinstance(page, Page)
    )
    return list(islice(filter(None, texts), documents))


def datatrove_verdict(rule_sets: list[RuleSet]) -> Callable[[str], str | None]:
    """Return a function from a text to datatrove's reason for dropping it, or None."""
    made = {
        "gopher": GopherQualityFilter,
        "gopher_repetition": GopherRepetitionFilter,
        "c4": lambda: C4QualityFilter(min_num_sentences=3, min_words_per_line=5),
        "fineweb": lambda: FineWebQualityFilter(char_duplicates_ratio=0.1),
    }
    filters = [made[rule_set]() for rule_set in rule_sets]

    def verdict(text: str) -> str | None:
        for quality_filter in filters:
            result = quality_filter.filter(Document(text, "document"))
            if result is not True:
                return result[1]
        return None

    return verdict


def cpu_seconds(verdict: Callable[[str], str | None], texts: list[str]) -> tuple[float, list]:
    split_into_parts.cache_clear()
    started = time.process_time()
    verdicts = [verdict(text) for text in texts]
    return time.process_time() - started, verdicts


def compare(texts: list[str], rule_sets: list[RuleSet], repeats: int) -> dict[str, Any]:
    """Return the smallest times of both sides, and how often their verdicts differ, by reason."""
    settings = RuleSettings(rules=rule_sets)
    theirs = datatrove_verdict(rule_sets)
    theirs("The words of a text, and the time to load what splits them. " * 9)
    times: dict[str, list[float]] = {"ours": [], "datatrove": []}
    for _ in range(repeats):
        seconds, our_verdicts = cpu_seconds(lambda text: first_broken_rule(text, settings), texts)
        times["ours"].append(seconds)
        seconds, their_verdicts = cpu_seconds(theirs, texts)
        times["datatrove"].append(seconds)
    pairs = Counter(zip(our_verdicts, their_verdicts, strict=True))
    differ = {pair: n for pair, n in pairs.most_common() if (pair[0] is None) != (pair[1] is None)}
    return {
        **{f"{side} seconds": round(min(seconds), 3) for side, seconds in times.items()},
        "times as fast": round(min(times["datatrove"]) / min(times["ours"]), 1),
        "both keep": pairs[None, None],
        "only ours drops": {ours: n for (ours, kept), n in differ.items() if kept is None},
        "only datatrove drops": {kept: n for (ours, kept), n in differ.items() if ours is None},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--every", type=int, default=16, help="take every so many pages")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    texts = read_texts(arguments.paths, arguments.every, arguments.documents)
    results: dict[str, Any] = {"documents": len(texts), "characters": sum(map(len, texts))}
    print(results, flush=True)
    for words in ("their words", "same words"):
        for module in WORD_MODULES:
            same = words == "same words"
            module.split_into_words = (
                (lambda text, language: text.split()) if same else split_into_words
            )
        for name, rule_sets in CASES.items():
            results[f"{name}, {words}"] = compare(texts, rule_sets, arguments.repeats)
            print(f"{name}, {words}", results[f"{name}, {words}"], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
