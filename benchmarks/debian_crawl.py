"""Packs the HTML pages of Debian's documentation packages into one WARC file.

    python benchmarks/debian_crawl.py FOLDER                    # 9,279 pages in English, 271 MB
    python benchmarks/debian_crawl.py FOLDER --name korean.warc.gz --package libreoffice-help-ko

It needs Debian or Ubuntu (`apt-get download`, `dpkg-deb`) and the internet, installs nothing, and
keeps the packages in FOLDER. A page's bytes are those of the package. Its header names the type but
no charset, as many servers do, so the page's own declaration counts.
"""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

ENGLISH = [
    "python3.11-doc",
    "postgresql-doc-15",
    "sqlite3-doc",
    "git-doc",
    "linux-doc-6.1",
    "libreoffice-help-en-us",
    "apache2-doc",
]


def unpacked(package: str, folder: Path) -> Path:
    """Download a package into the folder, unless it is there, and return its files' folder."""
    files = folder / package
    if not files.is_dir():
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(files)], check=True)
    return files


def html_pages(files: Path) -> Iterator[Path]:
    """Yield the HTML files in the order of their names; links within a package repeat a page."""
    for path in sorted(files.rglob("*.htm*")):
        if path.is_file() and not path.is_symlink() and path.suffix in (".html", ".htm"):
            yield path


def main(
    folder: Path,
    name: str = "debian.warc.gz",
    package: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """Write FOLDER/NAME."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    with (folder / name).open("wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        for each in package or ENGLISH:
            files = unpacked(each, folder)
            pages = list(html_pages(files))
            for path in pages:
                payload = path.read_bytes()
                headers = StatusAndHeaders(
                    "200 OK",
                    [("Content-Type", "text/html"), ("Content-Length", str(len(payload)))],
                    protocol="HTTP/1.1",
                )
                record = writer.create_warc_record(
                    f"file:///{path.relative_to(files).as_posix()}",
                    "response",
                    payload=io.BytesIO(payload),
                    http_headers=headers,
                )
                writer.write_record(record)
                total += len(payload)
            print(f"{each}: {len(pages):,} pages", file=sys.stderr)
    print(f"{folder / name}: {total / 1e6:,.0f} MB of HTML")


if __name__ == "__main__":
    typer.run(main)
