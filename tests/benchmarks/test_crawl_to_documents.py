"""Our half of the benchmark against datatrove runs with the pipeline as it is now."""

import importlib.util
import sys
from pathlib import Path

import pytest
from story_pages import html, story

from data_pipeline.sources.warc_files import write_warc

pytest.importorskip("fasttext")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crawl_to_documents.py"


def test_ours_counts_the_documents_that_it_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("crawl_to_documents", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    pages = [html(f"http://x/{number}", story(number)) for number in (0, 1, 2, 1)]
    write_warc(tmp_path / "a.warc.gz", pages)
    assert benchmark.run_ours([tmp_path / "a.warc.gz"], tmp_path / "run") == 3
