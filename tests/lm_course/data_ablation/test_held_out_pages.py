"""Groups of near copies are held out or not as one."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.minhash_dedup import MinHashSettings
from lm_core.formats.documents import Document, document_id, write_documents
from lm_course.data_ablation.held_out_pages import held_out_documents, hold_out, url_order


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred texts, of which the first has fifty near copies."""
    folder = tmp_path_factory.mktemp("documents") / "documents"
    generator = np.random.default_rng(0)
    texts = [" ".join(map(str, generator.integers(0, 10_000, 60))) for _ in range(100)]
    texts += [f"{texts[0]} {number}" for number in range(50)]
    made = [
        Document(document_id(text), text, "a", f"http://x/{number}")
        for number, text in enumerate(texts)
    ]
    write_documents(folder, made, [{"documents_out": len(made)}])
    return folder


def test_a_large_group_is_held_out_as_one_page(documents: Path, tmp_path: Path) -> None:
    first, others = "http://x/0", {f"http://x/{number}" for number in range(100, 150)}
    share = url_order(first) / 2**64
    without = hold_out(documents, share - 1e-9, MinHashSettings(), tmp_path, 1)
    assert first not in without.measured and not without.copies
    assert not any(url in without.measured for url in others)
    assert all(without.is_for_training(url) for url in (first, *others))
    pages = hold_out(documents, share + 1e-9, MinHashSettings(), tmp_path, 1)
    assert pages.measured == without.measured | {first}
    assert pages.copies == others
    assert not any(pages.is_for_training(url) for url in (first, *others))
    assert len(pages.measured) == pytest.approx(100 * share, abs=15)


def test_held_out_documents_are_in_the_order_of_their_hashes(
    documents: Path, tmp_path: Path
) -> None:
    few, many = (
        held_out_documents(documents, hold_out(documents, share, MinHashSettings(), tmp_path, 1))
        for share in (0.2, 0.6)
    )
    assert 5 < len(few) < len(many)
    assert many[: len(few)] == few
