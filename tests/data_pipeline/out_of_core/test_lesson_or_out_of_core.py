"""The lesson for few documents or a learner's file, compiled code on disk for many."""

import pytest

from data_pipeline.minhash_dedup import MinHashSettings
from data_pipeline.out_of_core import duplicate_clusters as compiled
from data_pipeline.out_of_core import lesson_or_out_of_core as module
from data_pipeline.out_of_core.lesson_or_out_of_core import near_duplicate_clusters

TEXTS = ["a b c d", "e f g", "A, b c d!", "h", "e f g"]


@pytest.fixture
def calls(monkeypatch):
    """Record the calls of the compiled search, and let it begin at five documents."""
    monkeypatch.setattr(module, "COMPILED_FROM_DOCUMENTS", 5)
    calls = []
    function = compiled.duplicate_clusters
    monkeypatch.setattr(
        compiled, "duplicate_clusters", lambda *given: calls.append(given) or function(*given)
    )
    return calls


def test_few_documents_take_the_lesson_and_many_the_compiled_code(tmp_path, calls):
    found = near_duplicate_clusters(iter(TEXTS[:4]), MinHashSettings(), tmp_path)
    assert found.tolist() == [0, 1, 0, 3] and not calls
    found = near_duplicate_clusters(iter(TEXTS), MinHashSettings(), tmp_path)
    assert found.tolist() == [0, 1, 0, 3, 1] and len(calls) == 1
    assert near_duplicate_clusters([], MinHashSettings(), tmp_path).tolist() == []


def test_few_long_documents_take_the_compiled_code(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(module, "COMPILED_FROM_CHARACTERS", 23)
    for texts, compiled_calls in ((TEXTS[:3], 0), (TEXTS[:4], 0), ([*TEXTS[:3], "h i"], 1)):
        found = near_duplicate_clusters(iter(texts), MinHashSettings(), tmp_path)
        assert found.tolist() == [0, 1, 0, 3][: len(texts)]
        assert len(calls) == compiled_calls


def test_a_learners_own_file_is_never_passed_over(tmp_path, calls, monkeypatch):
    (tmp_path / "data_pipeline").mkdir()
    monkeypatch.setenv("LM_STAND_INS", str(tmp_path))
    (tmp_path / "data_pipeline" / "mixing.py").write_text("")
    near_duplicate_clusters(TEXTS, MinHashSettings(), tmp_path)
    assert len(calls) == 1
    (tmp_path / "data_pipeline" / "minhash_dedup.py").write_text("")
    monkeypatch.setattr(module, "duplicate_components", lambda sets, settings: [7] * len(sets))
    assert near_duplicate_clusters(iter(TEXTS), MinHashSettings(), tmp_path).tolist() == [7] * 5
    assert len(calls) == 1
