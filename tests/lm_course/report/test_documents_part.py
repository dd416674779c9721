"""The parts about the documents: figures of the build's files, and what happens without them."""

import html
import re
from pathlib import Path
from typing import Any

import pytest

from lm_core.artifact_paths import RunPaths, write_json
from lm_core.formats.documents import Document, write_documents
from lm_core.user_error import UserError
from lm_course.report.documents_part import documents_shown, examples, funnel
from lm_course.report.report_page import write_report

STEPS = ("quality rules", "near duplicates")
SECONDS = {"quality rules": 1234.56}
SOURCES = [("a<b>.warc.gz", 90, 2), ("b.warc.gz", 6, 1), ("", 4, 2)]
EXAMPLES = [
    {"step": "quality rules", "kept": [{"url": "http://x/1", "text": "A <b>kept</b> text"}],
     "dropped": {"rare": [{"url": "http://x/2", "text": ""}],
                 "often": [{"url": "<script>" + "u" * 300, "text": "Dropped & gone"}]}},
    {"step": "near duplicates", "kept": [], "dropped": {}},
]  # fmt: skip
CLUSTERS = [{"documents": 1234, "urls": ["http://x/<1>", "http://x/2"]}]
DOCUMENTS = [
    Document("", text, "a", f"http://x/{number}", language)
    for number, (text, language) in enumerate(
        [("x" * 8, "en"), ("ä" * 5, "en"), ("x" * 16, "ko"), ("x" * 15, ""), ("x" * 1000, "en")]
    )
]


def counts() -> list[dict[str, Any]]:
    rows, given = [], 100
    for step, dropped in zip(STEPS, ({"rare": 2, "often": 40}, {"similar text": 53}), strict=True):
        left = given - sum(dropped.values())
        sources = [
            {"source": name, "documents_in": first, "documents_out": last}
            | ({} if name else {"files": 1234})
            for name, first, last in SOURCES
        ]
        rows.append({"step": step, "documents_in": given, "documents_out": left, "bytes_in": 9,
                     "bytes_out": 9, "dropped": dropped, "sources": sources})  # fmt: skip
        given = left
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    others = {"examples.json": EXAMPLES, "clusters.json": CLUSTERS}
    path = RunPaths(tmp_path / "run").documents
    write_documents(path, DOCUMENTS, counts(), rows_per_file=2, others=others)
    return path


def page_of(folder: Path) -> str:
    record = {"summary": {"step_seconds": SECONDS}, "seconds": 1, "python": "3"}
    write_report(RunPaths(folder.parent), {"documents": record})
    return RunPaths(folder.parent).report.read_text(encoding="utf-8")


def sections(page: str) -> list[str]:
    return re.findall('<h2 id="([^"]*)"', page)


def test_the_page_shows_all_of_it_escaped(folder: Path) -> None:
    page = page_of(folder)
    assert sections(page) == ["funnel", "documents", "examples", "times"]
    for forbidden in ("<script", "a<b>", "<b>kept", "x/<1>"):
        assert forbidden not in page
    text = re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", page)))
    for shown in (
        "1,234.6 s", "often 40, rare 2",
        "a<b>.warc.gz 90 2 2 2 %", "b.warc.gz 6 1 1 17 %", "1,234 other files 4 2 2 50 %",
        "5 documents of 210 bytes on average; the shortest has 8, the longest 1,000",
        "1,234 http://x/<1> http://x/2",
        "dropped: often, 1 of 40", "dropped: rare, 1 of 2 http://x/2 (no text)",
        "kept, 1 of 58 http://x/1 A <b>kept</b> text", "kept, 0 of 5",
    ):  # fmt: skip
        assert shown in text, shown
    assert text.index("dropped: often") < text.index("dropped: rare"), "most frequent first"
    assert page.count("<svg") == 2
    assert page.count("<details><summary>") == 4, "examples are folded, three files are not"
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_many_sources_are_folded(folder: Path) -> None:
    many = [{"source": f"{n}.html", "documents_in": 1, "documents_out": 0} for n in range(9)]
    write_json(folder / "counts.json", [{**row, "sources": many} for row in counts()])
    assert "<summary>the 9 files with the most pages</summary>" in page_of(folder)


def test_lengths_are_counted_by_powers_of_two_and_languages_by_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict] = []
    for name in ("length_histogram", "language_bars"):
        monkeypatch.setattr(
            f"lm_course.report.report_plots.{name}", lambda given: drawn.append(dict(given)) or ""
        )
    documents_shown(folder, folder)
    assert drawn == [{3: 3, 4: 1, 9: 1}, {"en": 3, "ko": 1, "not known": 1}]


def test_one_language_needs_no_plot(folder: Path) -> None:
    write_documents(folder, DOCUMENTS[:2], [{"documents_out": 2}])
    figures = documents_shown(folder, folder)["figures"]
    assert figures["language"] == "en"
    assert figures["plots"].count("<svg") == 1


def test_an_older_folder_gives_what_it_has(folder: Path) -> None:
    older = [{k: v for k, v in row.items() if k != "sources"} for row in counts()]
    write_documents(folder, DOCUMENTS, older)
    part = funnel(folder, {})
    assert part["sources"] is None and not part["timed"]
    assert examples(folder) is None
    shown = documents_shown(folder, folder)
    assert shown["clusters"] == [] and not shown["searched"]
    page = page_of(folder)
    assert sections(page) == ["funnel", "documents", "times"]
    assert "near duplicate of another" not in page
    for part_file in folder.glob("part-*"):
        part_file.unlink()
    assert documents_shown(folder, folder) is None


@pytest.mark.parametrize("contents", ["", "{", '[{"step": 1}]', '{"a": 1}', "[null]"])
def test_files_that_cannot_be_read_are_named_and_cost_only_what_they_show(
    folder: Path, contents: str
) -> None:
    for name in ("examples.json", "clusters.json"):
        (folder / name).write_text(contents)
    (folder / "part-00001.parquet").write_text(contents)
    page = page_of(folder)
    assert sections(page) == ["funnel", "documents", "examples", "times"]
    for name in ("examples.json", "clusters.json", "documents"):
        assert f"{name}: cannot be read (" in page


@pytest.mark.parametrize("contents", [None, "{", "{}", "[]", "[7]"])
def test_damaged_counts_cost_the_parts_that_need_them(folder: Path, contents: str | None) -> None:
    (folder / "counts.json").unlink()
    if contents is not None:
        (folder / "counts.json").write_text(contents)
    with pytest.raises((UserError, LookupError, TypeError, ValueError)):
        page_of(folder)
    page = RunPaths(folder.parent).report.read_text(encoding="utf-8")
    assert sections(page)[:2] == ["failures", "documents"]
    assert "its part of this page could not be drawn" in page


def test_the_examples_are_those_of_the_build_after_a_filter(folder: Path) -> None:
    """A filter's folder has documents and counts only."""
    later = folder.with_name("toxicity.documents")
    write_documents(later, DOCUMENTS[:3], [*counts(), {**counts()[-1], "documents_out": 3}])
    shown = documents_shown(later, folder)
    assert shown["figures"]["documents"] == 3
    assert [cluster["size"] for cluster in shown["clusters"]] == [1234]
    paths = RunPaths(folder.parent)
    write_report(paths, {}, documents=later)
    page = paths.report.read_text(encoding="utf-8")
    assert sections(page) == ["funnel", "documents", "examples"]
    assert "3 documents of" in page and "http://x/&lt;1&gt;" in page
