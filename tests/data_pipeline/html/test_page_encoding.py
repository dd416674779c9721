"""Bytes to characters, as browsers decode them.

`whatwg_encodings.json` contains the results of Chromium's TextDecoder for every label, for all
bytes of the single-byte encodings, and a hash of its results for all byte pairs of the others.
"""

import encodings
import hashlib
import json
import pkgutil
from pathlib import Path

import pytest
import webencodings
from html5lib._inputstream import EncodingParser, HTMLBinaryInputStream
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.html.page_encoding import (
    PRESCAN_BYTES,
    decode,
    decode_page,
    detect_encoding,
    encoding_of_label,
    prescan,
)

WHATWG = json.loads(Path(__file__).with_name("whatwg_encodings.json").read_text("utf-8"))
LABELS = [(label, name) for name, labels in WHATWG["labels"].items() for label in labels]


def test_every_label_names_what_it_names_in_browsers():
    assert len(LABELS) == 228
    for label, name in LABELS:
        assert encoding_of_label(label) == name
        assert encoding_of_label(f"\t {label.upper()}\n") == name


def test_no_other_codec_of_python_is_a_name():
    labels = {label for label, _ in LABELS}
    modules = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    names = modules | set(encodings.aliases.aliases) | {n.replace("_", "-") for n in modules}
    assert {"undefined", "unicode_escape", "idna", "hex_codec", "utf-7"} <= names
    for name in names - labels:
        assert encoding_of_label(name) is None
        assert detect_encoding(b'<meta charset="koi8-r">', name) == "koi8-r"


@pytest.mark.parametrize("label", ["", "undefined", "utf-32", "ütf-8", "\0", "utf-8\0", "x" * 9999])
def test_what_is_not_a_label_is_not_a_name(label):
    assert encoding_of_label(label) is None


@pytest.mark.parametrize("name", sorted(WHATWG["single"]))
def test_all_bytes_of_the_single_byte_encodings(name):
    upper_half = bytes(range(0x80, 0x100))
    if name == "replacement":
        assert decode(upper_half, name) == "\ufffd"
    else:
        assert decode(bytes(range(0x80)), name) == bytes(range(0x80)).decode("ascii")
        assert decode(upper_half, name) == WHATWG["single"][name]


@pytest.mark.parametrize("name", sorted(WHATWG["double"]))
def test_all_byte_pairs_of_the_other_encodings(name):
    if name == "iso-2022-jp":
        pairs = [(0x1B, 0x24, 0x42, a, b) for a in range(0x21, 0x7F) for b in range(0x21, 0x7F)]
    else:
        pairs = [(a, b) for a in range(0x80, 0x100) for b in range(0x40, 0x100)]
    text = "\n".join(decode(bytes(pair), name) for pair in pairs)
    assert hashlib.sha256(text.encode("utf-8")).hexdigest() == WHATWG["double"][name]


@pytest.mark.parametrize(
    ("label", "text", "payload"),
    [
        ("euc-kr", "뷁 똠방각하", "뷁 똠방각하".encode("cp949")),
        ("gb2312", "朱镕基 喆 €", "朱镕基 喆 ".encode("gb18030") + b"\x80"),
        ("gb18030", "\U0001f600", "\U0001f600".encode("gb18030")),
        ("shift_jis", "① ㈱ 髙 ｶﾞ", "① ㈱ 髙 ｶﾞ".encode("cp932")),
        ("x-sjis", "日本語", "日本語".encode("cp932")),
        ("euc-jp", "日本語 ① ～ ｶ 丂", "日本語 ".encode("euc_jp") + b"\xad\xa1 \xa1\xc1 \x8e\xb6 "
         + "丂".encode("euc_jp")),
        ("iso-2022-jp", "日本語 ①\nabc", b"\x1b$BF|K\\8l\x1b(B \x1b$B-!\n\x1b(Babc"),
        ("big5", "繁體中文 ① ‧ 嘅", "繁體中文 ".encode("big5") + b"\xc6\xa1 \xa1\x45 "
         + "嘅".encode("big5hkscs")),
        ("iso-8859-9", "“İyi” – günler", "“İyi” – günler".encode("cp1254")),
        ("utf-16", "é😀", "é😀".encode("utf-16-le")),
        ("unicodefffe", "é", "é".encode("utf-16-be")),
        ("hz-gb-2312", "\ufffd", b"~{<:Ky2;WEVB~}"),
        ("x-user-defined", "a\uf7ff", b"a\xff"),
    ],
)  # fmt: skip
def test_sample_texts(label, text, payload):
    assert decode_page(payload, label) == text


@pytest.mark.parametrize("encoding", sorted({name for _, name in LABELS}))
@given(st.binary(max_size=60))
def test_any_bytes_in_any_encoding_can_be_written_as_utf8(encoding, payload):
    text = decode(payload, encoding)
    assert text.encode("utf-8").decode("utf-8") == text


@pytest.mark.parametrize("encoding", ["utf-8", "euc-kr", "gbk", "big5", "shift_jis", "euc-jp"])
def test_a_broken_character_does_not_swallow_a_tag(encoding):
    assert decode(b"\xfe<p>\xfe", encoding).count("<p>") == 1


def test_utf8_is_what_webencodings_makes_of_it():
    for payload in (b"\xe9t\xe9", b"\xf0\x9f\x98", b"\xed\xa0\x80", "é😀".encode()):
        expected, _ = webencodings.decode(payload, "utf-8")
        assert decode(payload, "utf-8") == expected


META = [
    (b'<meta charset="utf-16"><p>Hello</p>', "utf-8"),
    (b"<meta charset=x-user-defined>", "windows-1252"),
    (b'<!-- <meta charset="koi8-r"> --><meta charset="utf-8">', "utf-8"),
    (b"<!--><meta charset=koi8-r>", "koi8-r"),
    (b'<meta charset="bogus"><meta charset="windows-1251">', "windows-1251"),
    (b"<META\nCHARSET = 'Shift_JIS' >", "shift_jis"),
    (b"<meta/charset=gbk>", "gbk"),
    (b"<metal charset=gbk>", None),
    (b'<p title="<meta charset=gbk>"><meta charset=big5>', "big5"),
    (b'<meta http-equiv=Content-Type content="text/html; charset=euc-jp">', "euc-jp"),
    (b"<meta content=\"text/html; charset = 'euc-jp'\" http-equiv=content-type>", "euc-jp"),
    (b'<meta name=description content="text/html; charset=euc-jp">', None),
    (b'<meta content="text/html; charset=euc-jp">', None),
    (b"<meta charset=gbk charset=big5>", "gbk"),
    (b"<meta data-charset=gbk>", None),
    (b"<meta charset=gbk", None),
    (b'<meta charset="gbk>', None),
    (b"<? <meta charset=gbk> ?><! x><meta charset=big5>", "big5"),
    (b'</a title=">"><meta charset=big5>', "big5"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "encoding"), META)
def test_prescan_by_hand(head, encoding):
    assert prescan(head) == encoding


class FirstOfEachName(EncodingParser):
    """html5lib looks at every content and charset of a <meta>, the standard at the first."""

    seen: frozenset[bytes] = frozenset()

    def handleMeta(self) -> bool:
        self.seen = frozenset()
        return super().handleMeta()

    def getAttribute(self) -> tuple[bytes, bytes] | None:
        while (attribute := super().getAttribute()) is not None:
            if attribute[0] not in self.seen:
                self.seen |= {attribute[0]}
                break
        return attribute


def html5lib_prescan(head: bytes) -> str | None:
    """Run html5lib's reader of <meta>, which ignores XML declarations."""
    found = FirstOfEachName(head).getEncoding()
    if found is None:
        return None
    return {"utf-16le": "utf-8", "utf-16be": "utf-8"}.get(found.name, found.name)


PIECES = [  # each "<" after a space: html5lib ends an unquoted value there
    b" <meta ", b" <p ", b" </p ", b" <!-- ", b" -->", b" <!doctype html>", b">", b"/", b" ", b"x",
    b" = ", b"'", b'"', b"gbk", b"utf-16", b"bogus", b"big5", b";", b" <title>", b"\n",
]  # fmt: skip
# not both in one page: after an unknown charset, html5lib still looks at content
CHARSET = [b"charset=", b"charset = ", b"charset"]
CONTENT = [b"content=", b"http-equiv=content-type ", b'content="text/html; charset=koi8-r" ']


def pages_of(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(pieces), max_size=14).map(b"".join)


@given(pages_of(PIECES + CHARSET) | pages_of(PIECES + CONTENT))
@example(b"<meta http-equiv=content-type content=charset=gbk>")
@example(b'<meta content=x http-equiv=content-type content="text/html; charset=koi8-r"')
@example(b"<meta charset=bogus charset=gbk")
def test_prescan_is_html5libs(head):
    head += b" >"  # html5lib counts a <meta> that is cut off, the standard does not
    assert prescan(head) == html5lib_prescan(head)


@pytest.mark.parametrize("first", [b"content=x", b"content= <meta", b"content"])
def test_a_repeated_attribute_does_not_count(first):
    second = b'http-equiv=content-type content="text/html; charset=koi8-r"'
    assert prescan(b"<meta " + first + b" " + second + b">") is None
    assert prescan(b"<meta " + second + b">") == "koi8-r"
    assert prescan(b"<meta charset=bogus charset=gbk>") is None


def test_html5lib_reads_whole_pages_in_the_same_encoding():
    for head, encoding in META:
        if head.startswith((b"<!-->", b"<meta/")) or not head.endswith(b">"):
            continue  # html5lib is older than the standard in these
        page = b"<!doctype html>" + head + b"<p>x</p>"
        stream = HTMLBinaryInputStream(page, useChardet=False, default_encoding="utf-8")
        theirs = stream.charEncoding[0].name
        if theirs == "x-user-defined":  # html5lib is older than this rule
            theirs = "windows-1252"
        assert detect_encoding(page) == theirs == (encoding or "utf-8")


@pytest.mark.parametrize(
    ("page", "charset", "encoding"),
    [
        (b'<?xml version="1.0" encoding="iso-8859-2"?><html>', "", "iso-8859-2"),
        (b"<?xml version='1.0' encoding = 'gbk' ?>", "", "gbk"),
        (b'<?xml encoding="utf-16"?>', "", "utf-8"),
        (b'<?xml encoding="unicode-escape"?>', "", "utf-8"),
        (b' <?xml encoding="gbk"?>', "", "utf-8"),
        (b'<?xml encoding="gbk"?><meta charset=big5>', "", "big5"),
        ('<?xml encoding="x"?>'.encode("utf-16-le"), "", "utf-16le"),
        ('<?xml encoding="x"?>'.encode("utf-16-be"), "", "utf-16be"),
        (b"\xef\xbb\xbf<meta charset=gbk>", "koi8-r", "utf-8"),
        (b"\xff\xfe<\0", "koi8-r", "utf-16le"),
        (b"<meta charset=gbk>", "koi8-r", "koi8-r"),
        (b"<meta charset=gbk>", "javascript", "gbk"),
        (b"", "", "utf-8"),
    ],
)
def test_the_order_of_the_sources(page, charset, encoding):
    assert detect_encoding(page, charset) == encoding


def test_a_meta_beyond_the_prescan_counts_where_a_parser_sees_it():
    long_comment = b"<!-- " + b"x" * PRESCAN_BYTES + b" -->"
    assert prescan((long_comment + b"<meta charset=gbk>")[:PRESCAN_BYTES]) is None
    assert detect_encoding(long_comment + b"<meta charset=gbk>") == "gbk"
    assert detect_encoding(long_comment + b"<script>'<meta charset=gbk>'</script>") == "utf-8"
    assert detect_encoding(long_comment + b"<body><meta charset=gbk>") == "utf-8"


def test_the_payload_of_a_page_without_a_charset():
    assert decode_page(b"\xe9t\xe9", "utf-8") == "\ufffdt\ufffd"
    assert decode_page(b"a\r\nb\rc") == "a\nb\nc"
    assert decode_page(b"\xef\xbb\xbf" + "é".encode(), "latin-1") == "é"


KOREAN = "<p>한국어 문서</p>"


@pytest.mark.parametrize(
    ("payload", "charset", "text"),
    [
        # the header and <meta> name different encodings: the header counts
        (b"<meta charset=utf-8>" + KOREAN.encode("cp949"), "euc-kr", KOREAN),
        (b"<meta charset=euc-kr>" + KOREAN.encode(), "utf-8", KOREAN),
        # an encoding that the bytes contradict counts too, and costs only what it cannot read
        (b"<meta charset=utf-8><p>caf\xe9</p>", "", "<p>caf\ufffd</p>"),
        (b"<meta charset=shift_jis><p>\xff a</p>", "utf-8", "<p>\ufffd a</p>"),
        (b"<meta charset=koi8-r><p>\xfe\xfe</p>", "euc-kr", "<p>\ufffd</p>"),
        # a byte order mark counts more than both
        ("\ufeff<p>é</p>".encode("utf-16-le"), "euc-kr", "<p>é</p>"),
        ("\ufeff<p>é</p>".encode("utf-16-be"), "utf-8", "<p>é</p>"),
    ],
)
def test_pages_that_contradict_themselves(payload, charset, text):
    assert decode_page(payload, charset)[-len(text) :] == text
