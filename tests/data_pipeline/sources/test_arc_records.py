"""Header lines of ARC files by hand, and whole files of both versions, broken ones too."""

import gzip
from pathlib import Path

import pytest

from data_pipeline.sources.arc_records import arc_headers, may_follow
from data_pipeline.sources.warc_files import LostPage, Page, read_answers

BODY = b"<p>A sentence of the page.</p>\n\n<p>Another.</p>"
OK = b"HTTP/1.0 200 OK\nContent-Type: text/html; charset=koi8-r\n\n" + BODY
FIELDS = {
    1: b"URL IP-address Archive-date Content-type Archive-length\n",
    2: b"URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename "
    b"Archive-length\n",
}
XML = b'<?xml version="1.0"?><arcmetadata>\nhttp://e.org/ is the seed</arcmetadata>\n'


def document(content: bytes = OK, url: bytes = b"http://e.org/", version: int = 1) -> bytes:
    more = b"200 a0b1 - 1024 a.arc " if version == 2 else b""
    line = url + b" 192.0.2.7 19961104142103 text/html " + more + b"%d\n" % len(content)
    return line + content + b"\n"


def description(version: int = 1, metadata: bytes = b"") -> bytes:
    reserved = b"1" if metadata else b"0"
    content = b"%d %s Alexa Internet\n" % (version, reserved) + FIELDS[version] + metadata
    return document(content, b"filedesc://a.arc", version)


def write(path: Path, records: list[bytes], form: str) -> Path:
    packed = {
        "members": lambda: b"".join(map(gzip.compress, records)),
        "one member": lambda: gzip.compress(b"".join(records)),
        "plain": lambda: b"".join(records),
    }
    path.write_bytes(packed[form]())
    return path


FORMS = ["members", "one member", "plain"]


def test_header_lines_by_hand():
    line = b"http://e.org/a b 192.0.2.7 20080430204825 text/html; charset=utf-8 68\r\n"
    assert arc_headers(line) == {
        "warc-type": "response",
        "warc-target-uri": "http://e.org/a b",
        "content-type": "application/http",
        "warc-identified-payload-type": "text/html;",
        "content-length": "68",
    }
    assert arc_headers(b"dns:e.org 2001:db8::1 20080430204825 text/dns 56\n")["content-type"] == (
        "dns"
    )
    assert arc_headers(b"filedesc://a 0.0.0.0 19960923142103 text/plain 9\n")["warc-type"] == (
        "warcinfo"
    )
    for other in (
        b"",
        b"\n",
        b"http://e.org/\n",
        b"http://e.org/ 192.0.2.7 20080430204825 text/html\n",
        b"http://e.org/ 192.0.2.7 20080430204825 68\n",
        b"http://e.org/ 192.0.2.7 yesterday text/html 68\n",
        b"http://e.org/ nobody 20080430204825 text/html 68\n",
        b"no-scheme 192.0.2.7 20080430204825 text/html 68\n",
        b"URL IP-address Archive-date Content-type Archive-length\n",
    ):
        assert arc_headers(other) is None


def test_what_may_follow_a_document():
    for following in (b"", b"\n", b"\nhttp://e", b"\r\n\nfiledesc://"):
        assert may_follow(following)
    for following in (b"http://e", b"\n<p>", b"x"):
        assert not may_follow(following)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("version", "metadata"), [(1, b""), (1, XML), (2, b"")])
def test_pages_of_an_arc_file(tmp_path, form, version, metadata):
    records = [
        description(version, metadata),
        document(b"20080430\ne.org. 60 IN A 192.0.2.7", b"dns:e.org", version),
        document(OK, b"http://e.org/0", version),
        document(b"HTTP/1.0 404 Not Found\n\n" + BODY, b"http://e.org/404", version),
        document(OK, b"https://e.org/1 2", version),
    ]
    pages = list(read_answers(write(tmp_path / "a", records, form)))
    assert pages == [
        Page(url, "text/html", BODY, "koi8-r") for url in ("http://e.org/0", "https://e.org/1 2")
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", [b"1", b"150", b"99999", b"10000000000"])
def test_a_wrong_length_costs_one_document(tmp_path, form, wrong):
    good = [document(OK, b"http://e.org/%d" % n) for n in range(3)]
    odd = good[1].replace(b"%d\n" % len(OK), wrong + b"\n", 1)
    path = write(tmp_path / "a", [description(), good[0], odd, good[2]], form)
    found = [a.reason if isinstance(a, LostPage) else a.url for a in read_answers(path)]
    assert found == ["http://e.org/0", "odd WARC record", "http://e.org/2"]


def test_the_content_type_of_the_header_line_counts_if_the_answer_has_none(tmp_path):
    bare = document(b"HTTP/1.0 200 OK\n\nno markup")
    path = write(tmp_path / "a", [description(), bare, document()], "plain")
    assert [a.content_type for a in read_answers(path)] == ["text/html", "text/html"]


def test_documents_without_an_http_header_are_lost(tmp_path):
    path = write(tmp_path / "a", [description(), document(BODY), document()], "plain")
    lost, page = read_answers(path)
    assert isinstance(lost, LostPage)
    assert (lost.reason, isinstance(page, Page)) == ("not an HTTP answer", True)


def test_a_damaged_or_cut_file_keeps_its_documents(tmp_path):
    records = [description(), *[document(OK, b"http://e.org/%d" % n) for n in range(4)]]
    members = list(map(gzip.compress, records))
    members[2] = members[2][:-30]
    members[4] = members[4][:-30]
    (tmp_path / "a").write_bytes(b"".join(members))
    found = [a.reason if isinstance(a, LostPage) else a.url for a in read_answers(tmp_path / "a")]
    assert found == ["http://e.org/0", "damaged", "http://e.org/2", "cut off"]
    (tmp_path / "a").write_bytes(b"".join(records)[:-30])
    found = [a.reason if isinstance(a, LostPage) else a.url for a in read_answers(tmp_path / "a")]
    assert found == ["http://e.org/0", "http://e.org/1", "http://e.org/2", "cut off"]
