"""The whole funnel on a small WARC file: counts that add up, and errors that name their step."""

import re
from itertools import pairwise

import pytest
from story_pages import FOOTER, html, story

from data_pipeline.executors import document_building, page_steps
from data_pipeline.executors.document_building import (
    OPTIONAL_STEPS,
    DocumentSettings,
    build_documents,
)
from data_pipeline.language_id import LanguageIdentifier
from data_pipeline.main_content.resiliparse_text import page_text
from data_pipeline.quality_classifier import HarmfulSettings
from data_pipeline.sources.warc_files import Page, write_warc
from lm_core.artifact_paths import read_json
from lm_core.formats.documents import document_id, read_counts, read_documents
from lm_core.user_error import UserError

pytest.importorskip("fasttext")
SETTINGS = DocumentSettings(num_processes=0)
GERMAN = (
    "Der Hund lief langsam am Fluss entlang und dachte an den langen Winter, der kommen sollte. "
    * 8
)


@pytest.fixture
def warc(tmp_path):
    pages = [html(f"http://x/{n}", story(n)) for n in range(12)]
    pages += [
        html("http://x/copy", story(3)),
        html("http://x/near", story(4) + "<p>And so on.</p>"),
        html("http://x/german", f"<p>{GERMAN}</p>"),
        html(
            "http://x/short",
            "<p>The page is too short to be of use to anybody, and that is it.</p>",
        ),
        Page("http://x/image", "image/png", b"\x89PNG", ""),
        Page("http://x/empty", "text/html", b"<html></html>", ""),
    ]
    write_warc(tmp_path / "pages.warc.gz", pages)
    return tmp_path / "pages.warc.gz"


def test_counts_add_up_and_name_every_reason(warc, tmp_path):
    counts, _ = build_documents([warc], tmp_path / "documents", SETTINGS)
    assert [row["step"] for row in counts] == [
        "extract text",
        "identify language",
        "quality rules",
        "mask personal data",
        "drop repeated lines",
        "exact duplicates",
        "near duplicates",
    ]
    dropped = {row["step"]: row["dropped"] for row in counts}
    assert dropped["extract text"] == {"not a text format": 1, "no text found": 1}
    assert dropped["identify language"] == {"other language": 1}
    assert dropped["quality rules"] == {"number of words": 1}
    assert dropped["exact duplicates"] == {"same text": 1}
    assert dropped["near duplicates"] == {"similar text": 1}
    for row, following in pairwise(counts):
        assert row["documents_in"] - row["documents_out"] == sum(row["dropped"].values())
        assert row["documents_out"] == following["documents_in"]
        assert row["bytes_out"] == following["bytes_in"]
    assert read_counts(tmp_path / "documents") == counts


@pytest.mark.parametrize("step", OPTIONAL_STEPS)
def test_a_step_can_be_left_out(warc, tmp_path, step):
    asked = DocumentSettings(num_processes=0, harmful=HarmfulSettings(kinds=["toxic"]))
    steps = [row["step"] for row in build_documents([warc], tmp_path / "all", asked).counts]
    settings = asked.model_copy(update={"leave_out": [step]})
    left = [row["step"] for row in build_documents([warc], tmp_path / "documents", settings).counts]
    assert left == [name for name in steps if name != step]


def test_without_any_filter_every_text_is_kept_as_it_was_extracted(warc, tmp_path):
    settings = DocumentSettings(num_processes=0, leave_out=OPTIONAL_STEPS)
    counts, _ = build_documents([warc], tmp_path / "documents", settings)
    assert [(row["step"], row["documents_out"]) for row in counts] == [("extract text", 16)]
    assert all(FOOTER in document.text for document in read_documents(tmp_path / "documents"))


def test_a_step_that_does_not_exist_cannot_be_left_out():
    with pytest.raises(ValueError, match="no step 'extract text'; expected some of identify lan"):
        DocumentSettings(leave_out=["extract text"])


def test_examples_and_seconds_of_each_step(warc, tmp_path):
    counts, seconds = build_documents([warc], tmp_path / "documents", SETTINGS)
    assert list(seconds) == [row["step"] for row in counts]
    assert all(spent > 0 for spent in seconds.values())
    written = read_json(tmp_path / "documents" / "examples.json", "", "")
    assert [step["step"] for step in written] == list(seconds)
    for step, row in zip(written, counts, strict=True):
        assert len(step["kept"]) == 5
        assert {reason: len(few) for reason, few in step["dropped"].items()} == row["dropped"]
    [german] = written[1]["dropped"]["other language"]
    assert german == {"url": "http://x/german", "text": f"{GERMAN}"[:300]}
    [image] = written[0]["dropped"]["not a text format"]
    assert image == {"url": "http://x/image", "text": "\ufffdPNG"}


def test_clusters_and_the_counts_of_several_files(warc, tmp_path):
    write_warc(
        tmp_path / "b.warc.gz", [html("http://y/0", story(30)), html("http://y/1", story(3))]
    )
    build_documents([warc, tmp_path / "b.warc.gz"], tmp_path / "documents", SETTINGS)
    counts = read_counts(tmp_path / "documents")
    for row in counts:
        for way in ("documents_in", "documents_out"):
            assert sum(source[way] for source in row["sources"]) == row[way]
    assert counts[-1]["sources"] == [
        {"source": "pages.warc.gz", "documents_in": 13, "documents_out": 12},
        {"source": "b.warc.gz", "documents_in": 1, "documents_out": 1},
    ]
    assert read_json(tmp_path / "documents" / "clusters.json", "", "") == [
        {"documents": 2, "urls": ["http://x/4", "http://x/near"]}
    ]


def test_batches_end_by_pages_and_by_bytes(monkeypatch):
    monkeypatch.setattr(document_building, "BATCH_PAGES", 3)
    monkeypatch.setattr(document_building, "BATCH_BYTES", 100)
    sizes = [10, 10, 10, 10, 200, 10, 90, 10]
    pages = [(Page(f"{n}", "text/plain", b" " * size, ""), "a") for n, size in enumerate(sizes)]
    cut = [[int(page.url) for page, _ in batch] for batch in document_building.batches(pages)]
    assert cut == [[0, 1, 2], [3, 4], [5, 6], [7]]


def test_documents_are_clean_and_in_the_order_of_the_pages(warc, tmp_path):
    counts, _ = build_documents([warc], tmp_path / "documents", SETTINGS)
    documents = list(read_documents(tmp_path / "documents"))
    assert [d.url for d in documents] == [f"http://x/{n}" for n in range(12)]
    assert counts[-1]["bytes_out"] == sum(len(d.text.encode()) for d in documents)
    for document in documents:
        assert document.id == document_id(document.text)
        assert document.language == "en"
        assert document.source == "pages.warc.gz"
        assert document.scores["masks"] == 2
        assert "|||EMAIL_ADDRESS|||" in document.text
        assert "example.org" not in document.text
        assert FOOTER not in document.text


def test_two_processes_give_the_same_files(warc, tmp_path, monkeypatch):
    monkeypatch.setattr(document_building, "BATCH_PAGES", 4)
    for number in (0, 2):
        build_documents([warc], tmp_path / str(number), DocumentSettings(num_processes=number))
    one, two = (sorted((tmp_path / n).iterdir()) for n in "02")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


@pytest.mark.parametrize(
    ("section", "step", "setting"),
    [
        ({"language": {"languages": ["fi"]}}, "identify language", "documents.language.languages"),
        ({"quality": {"min_words": 5000}}, "quality rules", "documents.quality"),
    ],
)
def test_an_empty_result_names_step_and_setting_and_writes_nothing(
    warc, tmp_path, section, step, setting
):
    settings = DocumentSettings.model_validate({"num_processes": 0, **section})
    with pytest.raises(ValueError, match=rf"the step '{step}' dropped all .* {setting}$"):
        build_documents([warc], tmp_path / "documents", settings)
    assert not (tmp_path / "documents").exists()


def test_a_file_without_a_record_leaves_the_old_documents_as_they_were(warc, tmp_path):
    build_documents([warc], tmp_path / "documents", SETTINGS)
    before = {p.name: p.read_bytes() for p in (tmp_path / "documents").iterdir()}
    warc.write_bytes(warc.read_bytes()[:30])
    with pytest.raises(ValueError, match=r"contains no WARC record \(it is cut off\)"):
        build_documents([warc], tmp_path / "documents", SETTINGS)
    assert {p.name: p.read_bytes() for p in (tmp_path / "documents").iterdir()} == before


def test_a_cut_file_gives_the_pages_before_the_cut(warc, tmp_path):
    warc.write_bytes(warc.read_bytes()[:-30])
    counts, _ = build_documents([warc], tmp_path / "documents", SETTINGS)
    assert counts[0]["documents_in"] == 18
    assert counts[0]["dropped"] == {"not a text format": 1, "cut off": 1}
    assert counts[0]["named"][0].startswith("pages.warc.gz: record 18 is cut off: the gzip member")
    assert counts[-1]["documents_out"] == 12


def test_a_page_after_another_does_not_change_its_language():
    """The model is loaded once for many pages: no state may pass from page to page."""
    from data_pipeline.language_id import language_model_path

    identifier = LanguageIdentifier(language_model_path())
    first = identifier.identify(GERMAN)
    identifier.identify("The cat sat on the mat.")
    assert identifier.identify(GERMAN) == first


def page_with(words: str) -> Page:
    return html(f"http://x/{words}", f"<p>{words}</p>" + story(20))


@pytest.mark.parametrize("num_processes", [0, 1])
def test_a_page_that_cannot_be_read_costs_that_page_and_is_named(tmp_path, num_processes):
    pages = [html(f"http://x/{n}", story(n)) for n in range(4)]
    large = Page("http://x/large", "text/html", b"<p>" + b"word " * 4000, "utf-8")
    odd_charset = Page("http://x/undefined", "text/html", pages[0].payload, "undefined")
    write_warc(tmp_path / "a.warc.gz", [*pages[:2], large, *pages[2:], odd_charset])
    settings = DocumentSettings(num_processes=num_processes, max_page_bytes=10_000)
    counts, _ = build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", settings)
    assert counts[0]["documents_in"] == 6
    assert counts[0]["dropped"] == {"too large": 1}
    assert len(counts[0]["named"]) == 1
    assert "a.warc.gz: record 3 (http://x/large): more than 10,000" in counts[0]["named"][0]
    assert counts[-1]["documents_out"] == 4, "the page with the odd charset is a copy of the first"
    assert read_counts(tmp_path / "documents") == counts


def test_a_page_that_takes_too_long_costs_that_page(tmp_path, monkeypatch):
    def slow_on_one(page, *rest):
        if b"endless" in page.payload:
            while True:
                re.match(r"(a|a)*b", "a" * 12)
        return page_text(page, *rest)

    monkeypatch.setattr(page_steps, "page_text", slow_on_one)
    write_warc(tmp_path / "a.warc.gz", [html("http://x/0", story(0)), page_with("endless")])
    settings = DocumentSettings(num_processes=0, max_page_seconds=0.5)
    counts, _ = build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", settings)
    assert counts[0]["dropped"] == {"too slow": 1}
    assert counts[0]["named"] == ["a.warc.gz: http://x/endless"]


def test_an_exception_costs_its_page_unless_every_page_raises_it(tmp_path, monkeypatch):
    def fails_on(word):
        def extract(page, *rest):
            if word in page.payload:
                raise UnicodeError("no such\ncodec")
            return page_text(page, *rest)

        monkeypatch.setattr(page_steps, "page_text", extract)

    write_warc(tmp_path / "a.warc.gz", [html("http://x/0", story(0)), page_with("unlucky")])
    fails_on(b"unlucky")
    counts, _ = build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", SETTINGS)
    assert counts[0]["dropped"] == {"error (UnicodeError)": 1}
    [named] = counts[0]["named"]
    assert "http://x/unlucky: UnicodeError: no such codec (test_document_building.py, li" in named
    fails_on(b"<p>")
    with pytest.raises(RuntimeError, match=r"fails on all 2 pages; .*http://x/0: UnicodeError"):
        build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", SETTINGS)


def test_your_own_file_that_fails_on_every_page_is_named_as_yours(warc, tmp_path, monkeypatch):
    own = tmp_path / "mine" / "data_pipeline" / "test_document_building.py"  # where the error is
    own.parent.mkdir(parents=True)
    own.write_text("")
    monkeypatch.setenv("LM_STAND_INS", str(tmp_path / "mine"))

    def fails(*given):
        raise NotImplementedError("a3_data.1")

    monkeypatch.setattr(page_steps, "page_text", fails)
    with pytest.raises(UserError, match=rf"{own}: your code fails on all 18 pages; .*a3_data\.1"):
        build_documents([warc], tmp_path / "documents", SETTINGS)


def test_a_language_model_that_is_none_is_one_line_from_several_processes_too(
    warc, tmp_path, monkeypatch, capfd
) -> None:
    garbage = tmp_path / "garbage.ftz"
    garbage.write_bytes(b"no model")
    monkeypatch.setenv("LM_LANGUAGE_MODEL", str(garbage))
    with pytest.raises(UserError, match=r"garbage\.ftz: not a fastText model"):
        build_documents([warc], tmp_path / "documents", DocumentSettings(num_processes=2))
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "documents").exists()


def test_bands_that_do_not_fit_are_named_before_the_first_page():
    with pytest.raises(ValueError, match="num_bands: expected a divisor of num_hashes, 128"):
        DocumentSettings.model_validate({"minhash": {"num_bands": 7}})


def test_examples_of_dropped_pages_are_masked_too(tmp_path):
    german = html("http://x/german", f"<p>Schreiben Sie an bob@example.org. {GERMAN}</p>")
    write_warc(tmp_path / "a.warc.gz", [html("http://x/0", story(0)), german])
    shown = {}
    for leave_out in ([], ["mask personal data"]):
        settings = DocumentSettings(num_processes=0, leave_out=leave_out)
        folder = tmp_path / f"documents{len(leave_out)}"
        build_documents([tmp_path / "a.warc.gz"], folder, settings)
        shown[len(leave_out)] = (folder / "examples.json").read_text()
    assert "bob@" not in shown[0] and "Schreiben Sie an |||EMAIL_ADDRESS|||" in shown[0]
    assert "bob@example.org" in shown[1]


def test_without_quality_rules_no_text_is_too_short(tmp_path):
    texts = [f"{word} 모든 페이지에 있는 줄" for word in "가나다라마바사아자차카타"]
    footer = (
        "이 줄은 이 사이트의 모든 페이지 끝에 있으며 언제나 똑같습니다. 다른 줄은 그렇지 않습니다."
    )
    pages = [Page(f"http://x/{t}", "text/plain", f"{t}\n{footer}".encode(), "") for t in texts]
    write_warc(tmp_path / "a.warc.gz", pages)
    leave_out = ["identify language", "near duplicates"]
    for more in (["quality rules"], []):
        settings = {"num_processes": 0, "leave_out": leave_out + more, "quality": {"rules": []}}
        asked = DocumentSettings.model_validate(settings)
        if more:
            build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", asked)
            assert [d.text for d in read_documents(tmp_path / "documents")] == texts
        else:
            message = r"repeated lines' dropped all 12 .* documents\.quality\.min_words$"
            with pytest.raises(UserError, match=message):
                build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", asked)


def test_an_evaluation_set_is_not_read_if_its_step_is_left_out(warc, tmp_path):
    settings = {"num_processes": 0, "decontamination": {"evaluation_sets": {"quiz": "nowhere"}}}
    asked = DocumentSettings.model_validate(settings)
    with pytest.raises(UserError, match="nowhere"):
        build_documents([warc], tmp_path / "documents", asked)
    left_out = asked.model_copy(update={"leave_out": ["decontaminate"]})
    assert build_documents([warc], tmp_path / "documents", left_out).counts
