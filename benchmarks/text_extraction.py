"""Extractors of main text, compared on real pages whose paragraphs were labelled by hand.

    python benchmarks/text_extraction.py CRAWL... [--timed 300] [--rounds 3]
    python benchmarks/text_extraction.py CRAWL... --label URL 6-28,30

CRAWL are WARC files that contain the pages of text_extraction_labels.json: documentation packages
of Debian 12 (python3.11-doc, postgresql-doc-15, sqlite3-doc, git-doc, linux-doc-6.1, apache2-doc,
libreoffice-help-en-us) packed as a WARC, pages of www.iana.org, and a page of pydoc. The labels
hold no text, only hashes of paragraphs; a page of another version is left out and named.

What counts as main text: title, headings, paragraphs, code, tables and lists of the article. Not:
menus, tables of contents, breadcrumbs, links to the previous and next page, lists of languages,
dates of change, copyright. `--label` stores the labels of one page: the positions of its main text
in the list that it prints.

It prints precision, recall and F1 of paragraphs and of words over all labelled pages, and pages per
second: processor seconds of one thread on `--timed` pages at even distances in the crawls, bytes to
text, the best of `--rounds`. Extractors take turns with every page. "whole page" keeps all text:
the score without any decision. trafilatura takes part if it is installed. The results are written
to text_extraction_results.json next to this file.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_pipeline.html.page_encoding import decode_page
from data_pipeline.main_content.page_comparison import (
    Agreement,
    compare,
    page_paragraphs,
    read_labels,
    write_labels,
)
from data_pipeline.main_content.resiliparse_text import extract_main_content
from data_pipeline.sources.warc_files import Page, read_warc
from data_pipeline.text_extraction import HTML_TYPES, extract_html_text
from lm_core.user_error import UserError

HERE = Path(__file__).resolve().parent
LABELS = HERE / "text_extraction_labels.json"
RESULTS = HERE / "text_extraction_results.json"
Extractor = Callable[[str], str]


def whole_page(html: str) -> str:
    return "\n".join(" ".join(words) for words in page_paragraphs(html))


def by_trafilatura(html: str) -> str:
    import trafilatura

    return trafilatura.extract(html, include_comments=False, include_tables=True) or ""


def extractors() -> dict[str, Extractor]:
    """Return name -> function from a page's characters to its text."""
    found: dict[str, Extractor] = {"whole page": whole_page, "lesson": extract_html_text}
    if find_spec("resiliparse"):
        found["resiliparse"] = extract_main_content
    if find_spec("trafilatura"):
        found["trafilatura"] = by_trafilatura
    return found


def html_pages(crawls: list[Path]) -> Iterator[Page]:
    return (page for page in read_warc(crawls) if page.content_type in HTML_TYPES)


def ranges_of(text: str) -> list[range]:
    """Return the ranges of "6-28,30", whose ends are included."""
    pairs = [part.partition("-") for part in text.split(",")]
    return [range(int(first), int(last or first) + 1) for first, _, last in pairs]


def label_page(crawls: list[Path], url: str, main: str) -> None:
    """Print the paragraphs of a page with their labels, and store the labels."""
    page = next((page for page in html_pages(crawls) if page.url == url), None)
    if page is None:
        sys.exit(f"{url}: no such page in {', '.join(map(str, crawls))}")
    paragraphs = page_paragraphs(decode_page(page.payload, page.charset))
    labels = write_labels(paragraphs, ranges_of(main))
    for number, (words, label) in enumerate(zip(paragraphs, labels.split(), strict=True)):
        print(f"{number:4} {label[0]} {' '.join(words)[:80]}")
    stored = json.loads(LABELS.read_text("utf-8")) if LABELS.exists() else {}
    stored[url] = labels
    LABELS.write_text(json.dumps(dict(sorted(stored.items())), indent=0) + "\n", "utf-8")


def scores(pages: list[Page], labels: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sums over all labelled pages for each extractor, and F1 of words of each page."""
    sums = {name: (Agreement(), Agreement()) for name in extractors()}
    by_page: dict[str, Any] = {}
    for page in pages:
        html = decode_page(page.payload, page.charset)
        paragraphs = page_paragraphs(html)
        try:
            is_main = read_labels(labels[page.url], paragraphs, page.url)
        except UserError as error:
            print(f"left out: {error}")
            continue
        by_page[page.url] = {}
        for name, extract in extractors().items():
            found = compare(paragraphs, is_main, extract(html))
            sums[name] = (sums[name][0] + found[0], sums[name][1] + found[1])
            by_page[page.url][name] = [round(agreement.f1, 3) for agreement in found]
    return {name: both for name, both in sums.items() if by_page}, by_page


def pages_per_second(pages: list[Page], rounds: int) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(rounds):
        spent = dict.fromkeys(extractors(), 0.0)
        for page in pages:
            for name, extract in extractors().items():
                started = time.process_time()
                extract(decode_page(page.payload, page.charset))
                spent[name] += time.process_time() - started
        best = {name: min(spent[name], best.get(name, spent[name])) for name in spent}
    return {name: round(len(pages) / seconds, 1) for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("crawls", type=Path, nargs="+", metavar="CRAWL")
    parser.add_argument("--label", nargs=2, metavar=("URL", "MAIN"))
    parser.add_argument("--timed", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.label:
        label_page(given.crawls, *given.label)
        return
    labels = json.loads(LABELS.read_text("utf-8"))
    pages = list(html_pages(given.crawls))
    labelled = list({page.url: page for page in pages if page.url in labels}.values())
    print(f"{len(labelled)} of {len(labels)} labelled pages found")
    sums, by_page = scores(labelled, labels)
    timed = pages[:: max(len(pages) // given.timed, 1)][: given.timed]
    speed = pages_per_second(timed, given.rounds)
    print(f"{'':13}{'paragraphs':^24}{'words':^24}")
    print(f"{'':13}" + f"{'prec.':>8}{'recall':>8}{'F1':>8}" * 2 + f"{'pages/s':>10}")
    rows: dict[str, Any] = {}
    for name, both in sums.items():
        figures = [
            round(figure, 3)
            for found in both
            for figure in (found.precision, found.recall, found.f1)
        ]
        print(f"{name:13}" + "".join(f"{x:8.3f}" for x in figures) + f"{speed[name]:10.1f}")
        rows[name] = {
            "paragraphs": dict(zip(("precision", "recall", "f1"), figures[:3], strict=True)),
            "words": dict(zip(("precision", "recall", "f1"), figures[3:], strict=True)),
            "pages_per_second": speed[name],
        }
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, processor seconds of one thread",
        "versions": {
            name: version(name) for name in ("resiliparse", "trafilatura") if find_spec(name)
        },
        "pages": {"labelled": len(by_page), "timed": len(timed)},
        "timed_bytes": sum(len(page.payload) for page in timed),
        "extractors": rows,
        "f1_of_paragraphs_and_words": by_page,
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
