"""Steps that compare documents, over a file: what is left, what is counted, what is cleaned up."""

import numpy as np
import pytest

from data_pipeline.executors import scratch_documents
from data_pipeline.executors.comparing_steps import (
    CLUSTERS_FILE,
    COMPARING_STEPS,
    ComparingStep,
    largest_clusters,
    only,
    run_comparing_step,
)
from data_pipeline.executors.document_building import DocumentSettings
from data_pipeline.executors.scratch_documents import ScratchDocuments, Texts, scratch_folder
from lm_core.formats.documents import Document

DOCUMENTS = [
    Document("", text, "a", f"http://x/{n}", "en", {"score": n + 0.5})
    for n, text in enumerate(["one", "two äö", "three\n\n", "two äö", ""])
]


@pytest.fixture
def documents(tmp_path):
    written = ScratchDocuments(tmp_path / "documents.arrow")
    written.write(DOCUMENTS)
    return written


@pytest.mark.parametrize("rows", [1, 2, 1024])
def test_a_file_gives_back_what_was_written_as_often_as_asked(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(scratch_documents, "ROWS", rows)
    written = ScratchDocuments(tmp_path / "a")
    written.write(iter(DOCUMENTS))
    texts = Texts(written)
    for _ in range(2):
        assert list(written) == DOCUMENTS
        assert list(texts) == [document.text for document in DOCUMENTS]
    written.write([])
    assert list(written) == list(texts) == []


def test_a_scratch_folder_is_removed_after_an_error_too(tmp_path):
    with pytest.raises(LookupError), scratch_folder(tmp_path / "new" / "documents") as folder:
        assert folder.parent == tmp_path / "new"
        (folder / "file").write_text("")
        raise LookupError
    assert list((tmp_path / "new").iterdir()) == []


def test_a_step_may_read_the_texts_several_times_and_use_a_folder(documents, tmp_path):
    def shorter(texts, settings, surroundings):
        longest = max(map(len, texts))
        (surroundings.scratch / "file").write_text("")
        assert settings is surroundings.settings.minhash
        for text in texts:
            yield text.strip() if 0 < len(text) < longest else None

    step = ComparingStep("shorten", "minhash", "too long", shorter)
    left, count = run_comparing_step(step, documents, DocumentSettings(), tmp_path)
    assert [(d.url, d.text, d.scores) for d in left] == [
        (f"http://x/{n}", text, {"score": n + 0.5})
        for n, text in ((0, "one"), (1, "two äö"), (3, "two äö"))
    ]
    assert count.row == {
        "step": "shorten",
        "documents_in": 5,
        "documents_out": 3,
        "bytes_in": 3 + 8 + 7 + 8,
        "bytes_out": 3 + 8 + 8,
        "dropped": {"too long": 2},
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shorten.arrow"]


def test_a_step_that_forgets_a_text_is_noticed(documents, tmp_path):
    step = ComparingStep("forget", "minhash", "", lambda texts, *rest: iter(list(texts)[1:]))
    with pytest.raises(ValueError, match="zip"):
        run_comparing_step(step, documents, DocumentSettings(), tmp_path)


def test_the_steps_of_the_pipeline_name_sections_of_the_settings():
    for step in COMPARING_STEPS:
        assert hasattr(DocumentSettings(), step.settings_key)


def test_positions_that_rise_choose_texts():
    assert list(only([], "abc")) == [None] * 3
    assert list(only([1, 2], "abc")) == [None, "b", "c"]


def test_the_largest_clusters_come_first_and_show_few_urls():
    firsts = np.array([0, 1, 2, 2, 1, 5, *[2] * 5, *np.repeat(np.arange(11, 25), 2)])
    clusters = largest_clusters(firsts, map(str, range(len(firsts))))
    assert [cluster["documents"] for cluster in clusters] == [7, *[2] * 9]
    assert [cluster["urls"] for cluster in clusters[:4]] == [
        ["2", "3", "6", "7", "8"],
        ["1", "4"],
        ["11", "12"],
        ["13", "14"],
    ]
    assert largest_clusters(np.array([], dtype=np.int64), []) == []


def test_near_duplicates_are_reported_as_clusters(tmp_path):
    words = " ".join(f"word{n}" for n in range(200))
    texts = ["another text", words, f"{words} and more", "and another one", f"so {words}"]
    written = ScratchDocuments(tmp_path / "a")
    written.write(Document("", text, "a", f"http://x/{n}") for n, text in enumerate(texts))
    [step] = [step for step in COMPARING_STEPS if step.name == "near duplicates"]
    reports = {}
    run_comparing_step(step, written, DocumentSettings(num_processes=0), tmp_path, reports)
    urls = [f"http://x/{n}" for n in (1, 2, 4)]
    assert reports == {CLUSTERS_FILE: [{"documents": 3, "urls": urls}]}
