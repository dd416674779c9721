"""Real Korean pages in EUC-KR, from Debian's package apache2-doc: read as Hangul, in Korean.

Run them with `pytest -m network tests/data_pipeline/test_korean_pages.py`: apt-get downloads 15 MB
into a folder of the test, without root and without changing the machine.
"""

import re
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from data_pipeline.html.page_encoding import detect_encoding
from data_pipeline.language_id import LanguageIdentifier, language_model_path
from data_pipeline.text_extraction import extract_text

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif("'network' not in config.option.markexpr", reason="run with -m network"),
]
PACKAGE = "apache2-doc"
DECLARATION = re.compile(rb"<\?xml[^>]*\?>|<meta[^>]*charset[^>]*>", re.IGNORECASE)
HANGUL = re.compile("[가-힣]")


def download_package(name: str, folder: Path) -> Path:
    """Return the .deb file of the version that the machine's sources have now."""
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get")
    for place in ("state/lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    apt = ["apt-get", "-q", "-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache"]
    for command in (["update"], ["download", name]):
        ended = subprocess.run([*apt, *command], cwd=folder, capture_output=True, text=True)
        assert ended.returncode == 0, f"apt-get {command[0]}: {ended.stderr}"
    [package] = folder.glob("*.deb")
    return package


def package_files(package: Path) -> dict[str, bytes]:
    """Return the files in a .deb, which is an ar archive whose member data.tar.* has them."""
    archive = package.read_bytes()
    assert archive.startswith(b"!<arch>\n"), f"{package.name} is not a .deb file"
    start = 8
    while start < len(archive):
        header = archive[start : start + 60]
        name, size = header[:16].decode().strip(" /"), int(header[48:58])
        data = archive[start + 60 : start + 60 + size]
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=BytesIO(data)) as tar:
                return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
        start += 60 + size + size % 2  # a member begins at an even byte
    raise AssertionError(f"{package.name} has no data.tar")


def korean_pages(package: Path) -> dict[str, bytes]:
    """Return the package's HTML files that declare EUC-KR."""
    pages = {name: page for name, page in package_files(package).items() if name.endswith(".html")}
    return {name: page for name, page in pages.items() if detect_encoding(page) == "euc-kr"}


def texts_of(pages: dict[str, bytes]) -> dict[str, str]:
    return {name: extract_text(page, "text/html") for name, page in pages.items()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, bytes]:
    found = korean_pages(download_package(PACKAGE, tmp_path_factory.mktemp("apt")))
    assert len(found) >= 50, f"{PACKAGE} has only {len(found)} pages in EUC-KR by now"
    return found


def test_pages_in_euc_kr_come_out_as_hangul(pages):
    for name, text in texts_of(pages).items():
        assert HANGUL.search(text), name
        assert "\ufffd" not in text, name


def test_they_do_so_too_if_they_name_no_charset(pages):
    assert texts_of({name: DECLARATION.sub(b"", page) for name, page in pages.items()}) == (
        texts_of(pages)
    )


def test_they_are_identified_as_korean(pages):
    """But for a few lists of English names, of which less than a twentieth is Hangul."""
    identifier = LanguageIdentifier(language_model_path())
    others = {}
    for name, text in texts_of(pages).items():
        language = identifier.identify(text)
        if language.code != "ko" or language.confidence < 0.5:
            others[name] = len(HANGUL.findall(text)) / len(text)
    assert max(others.values(), default=0.0) < 0.05, others
    assert len(others) <= len(pages) / 20, others
