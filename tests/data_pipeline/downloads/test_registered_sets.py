"""The list of data sets is well-formed; tinyshakespeare is checked against the real file."""

import re
from pathlib import Path

import pytest
from shared_data import SHAKESPEARE, needs_shared_data

from data_pipeline.downloads.registered_sets import DATA_SETS, data_set_named
from lm_core.artifact_paths import file_sha256
from lm_core.user_error import UserError


def test_every_entry_is_complete() -> None:
    for name, data_set in DATA_SETS.items():
        assert data_set.name == name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert data_set.title and data_set.licence and data_set.files
        for file in data_set.files:
            assert file.urls
            assert all(url.startswith("https://") for url in file.urls)
            assert Path(file.name).name == file.name
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_a_name_that_is_not_there_is_answered_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set 'shakespear'; the names are shakespeare, "):
        data_set_named("shakespear")
    [path] = data_set_named("shakespeare").paths(tmp_path)
    assert path == tmp_path / "shakespeare" / "input.txt"


@needs_shared_data
def test_the_checksum_of_tinyshakespeare() -> None:
    [file] = DATA_SETS["shakespeare"].files
    assert (file.sha256, file.size) == (file_sha256(SHAKESPEARE), SHAKESPEARE.stat().st_size)


def test_an_edition_of_wikipedia_has_its_list() -> None:
    edition = data_set_named("wikipedia_zh-min-nan")
    assert edition.listing.endswith("/wikimedia/wikipedia/tree/main/20231101.zh-min-nan")
    assert (edition.files, edition.use) == ((), "pages")
    with pytest.raises(UserError, match=r"no data set 'wikipedia_'.* wikipedia_LANGUAGE"):
        data_set_named("wikipedia_")


def test_a_url_is_a_data_set_of_one_file(tmp_path: Path) -> None:
    url = "https://data.example.org/crawl-data/CC-MAIN-2024-33/warc/CC%2DMAIN.warc.gz"
    found = data_set_named(url)
    assert found.files[0].urls == (url,)
    folder = tmp_path / "data.example.org" / "crawl-data" / "CC-MAIN-2024-33" / "warc"
    assert found.paths(tmp_path) == (folder / "CC-MAIN.warc.gz",)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/", "ends with the name of a file"),
        ("https://example.org/a.warc?part=2", "without '\\?'"),
        ("https://example.org/a/../../b.warc", "ends with the name of a file"),
        ("https://example.org/a/%2e%2e", "ends with the name of a file"),
        ("s3://bucket/a.warc", "begins with https://"),
        ("https:///a.warc", "begins with https://"),
    ],
)
def test_a_url_that_names_no_file_is_refused(url: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        data_set_named(url)
