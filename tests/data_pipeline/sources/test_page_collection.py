"""The collect step as a whole, on a handful of modules."""

import pytest
from pydantic import ValidationError

from data_pipeline.sources.page_collection import CollectSettings, write_python_documentation
from data_pipeline.sources.warc_files import read_warc


def test_collect_writes_pages_and_readmes_twice_the_same(tmp_path):
    settings = CollectSettings(max_modules=6, num_processes=1)
    summary = write_python_documentation(tmp_path / "a.warc.gz", settings)
    write_python_documentation(tmp_path / "b.warc.gz", settings)
    assert (tmp_path / "a.warc.gz").read_bytes() == (tmp_path / "b.warc.gz").read_bytes()
    pages = list(read_warc([tmp_path / "a.warc.gz"]))
    assert len(pages) == summary["pages"] + summary["readmes"]
    assert sum(len(page.payload) for page in pages) == summary["payload_bytes"]
    assert summary["modules"] == 6
    assert summary["pages"] + sum(summary["failed"].values()) == 6


def test_settings_are_checked():
    with pytest.raises(ValidationError):
        CollectSettings(seconds_per_module=0.0)
