"""Bytes of a page -> characters, as browsers read them.

The rules are those of the WHATWG: the Encoding Standard defines which labels name an encoding and
what its bytes mean; HTML (section 13.2.3, "The input byte stream") defines where to look for a
page's label. A label that the standard does not list is ignored, and the next source is tried. Text
from a page is never looked up in Python's codec registry. The package `webencodings` contains the
table of labels.

A page that names no encoding is UTF-8 or guessed (encoding_guess.py). A declaration that the bytes
contradict still counts, as in browsers.

What this leaves out: the 192 characters that Python's Big5-HKSCS lacks.
"""

import codecs
import re
from collections.abc import Mapping
from functools import lru_cache

import webencodings

from data_pipeline.html.encoding_guess import guess_encoding
from data_pipeline.html.html_tokens import StartTag, tokens

PRESCAN_BYTES = 1024  # HTML: "the first 1024 bytes"
LATE_META_CHARACTERS = 1 << 16  # a <meta> after the first 1,024 bytes makes a browser start again
REPLACEMENT = "\ufffd"
WEB_ERRORS = "lm-web-errors"
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
# multi-byte encodings whose Python codec is the same as the browsers', or nearly
CODECS: Mapping[str, str] = {
    "utf-8": "utf-8",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "shift_jis": "cp932",
}
LEGACY_CODECS = frozenset({"gb18030", "big5hkscs", "cp949", "cp932"})
SINGLE_BYTE_CODECS: Mapping[str, str] = {
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
}  # the others have the same name in Python
SINGLE_BYTE_EXCEPTIONS: Mapping[tuple[str, int], str] = {
    ("koi8-u", 0xAE): "ў",
    ("koi8-u", 0xBE): "Ў",
    ("windows-1255", 0xCA): "\u05ba",
}
# the characters that Python's codec and the standard's index give for the same bytes
OTHER_CHARACTERS: Mapping[str, Mapping[int, str]] = {
    "big5": str.maketrans("•､‾∼♁☉／＼¥¢£", "‧﹑¯～⊕⊙∕﹨￥￠￡"),
    "euc-jp": str.maketrans("〜‖−¢£¬", "～∥－￠￡￢"),
    "gb18030": str.maketrans(
        "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7"
        "\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864",
        "\u3000\ufe10\ufe12\ufe11\ufe13\ufe14\ufe15\ufe16\ufe17\ufe18\ufe19\u1e3f"
        "\u9fb4\u9fb5\u9fb6\u9fb7\u9fb8\u9fb9\u9fba\u9fbb",
    ),
    "shift_jis": dict.fromkeys(range(0xF8F0, 0xF8F4), REPLACEMENT),
}
EUC_JP_CHARACTER = re.compile(
    rb"[\x00-\x7f]+|\x8f[\xa1-\xfe][\x80-\xff]|[\x8e\x8f\xa1-\xfe][\x80-\xff]|.", re.DOTALL
)
NOT_IN_ISO_2022_JP = dict.fromkeys((0x0E, 0x0F, 0x1B), REPLACEMENT)
JIS_ROMAN = {0x5C: "¥", 0x7E: "‾"}
ISO_2022_JP_ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B])")


def encoding_of_label(label: str) -> str | None:
    """Return the standard's name of the encoding that a label stands for, None if there is none."""
    found = webencodings.lookup(label) if label.isascii() else None
    return found.name if found else None


def detect_encoding(payload: bytes, http_charset: str = "") -> str:
    """Return the standard's name of a page's encoding.

    It comes from the byte order mark, else the HTTP header, else <meta> or the XML declaration in
    the first 1,024 bytes, else a <meta> after them, else it is guessed.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if payload.startswith(mark):
            return encoding
    return (
        encoding_of_label(http_charset)
        or prescan(payload[:PRESCAN_BYTES])
        or _late_meta(payload)
        or guess_encoding(payload)
    )


def decode_page(payload: bytes, http_charset: str = "") -> str:
    """Return the characters of a page, all of which UTF-8 can encode; bytes that the encoding does
    not allow become U+FFFD.
    """
    text = decode(payload, detect_encoding(payload, http_charset))
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def decode(payload: bytes, encoding: str) -> str:
    """Decode by an encoding's name in the standard."""
    if encoding == "replacement":  # ISO-2022-KR and others, which can hide attacks: no text at all
        return REPLACEMENT if payload else ""
    if encoding == "euc-jp":
        return _decode_euc_jp(payload)
    if encoding == "iso-2022-jp":
        return _decode_iso_2022_jp(payload)
    if encoding in CODECS:
        codecs.register_error(WEB_ERRORS, _web_errors)
        text = payload.decode(CODECS[encoding], WEB_ERRORS)
        other = OTHER_CHARACTERS.get("gb18030" if encoding == "gbk" else encoding)
        return text.translate(other) if other and not text.isascii() else text
    return codecs.charmap_decode(payload, "strict", _single_byte_table(encoding))[0]


@lru_cache
def _single_byte_table(encoding: str) -> str:
    """Return the 256 characters of a single-byte encoding.

    A byte below 0xA0 that Python leaves undefined is a control character in the standard.
    """
    if encoding == "x-user-defined":
        return "".join(chr(byte if byte < 0x80 else 0xF700 + byte) for byte in range(256))
    codec = SINGLE_BYTE_CODECS.get(encoding, encoding)
    characters = []
    for byte in range(256):
        character = bytes([byte]).decode(codec, "replace")
        if character == REPLACEMENT and 0x80 <= byte < 0xA0:
            character = chr(byte)
        characters.append(SINGLE_BYTE_EXCEPTIONS.get((encoding, byte), character))
    return "".join(characters)


def _web_errors(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return U+FFFD for an invalid byte pair, without consuming an ASCII character; 0x80 alone is
    the euro sign in GBK.
    """
    assert isinstance(error, UnicodeDecodeError), "used for decoding only"
    if error.encoding not in LEGACY_CODECS:
        return REPLACEMENT, error.end
    first, *second = error.object[error.start : error.start + 2]
    if error.encoding == "gb18030" and first == 0x80:
        return "€", error.start + 1
    is_pair = 0x81 <= first <= 0xFE and second and second[0] >= 0x80
    return REPLACEMENT, error.start + (2 if is_pair else 1)


@lru_cache(maxsize=94 * 94)
def _jis_pair(first: int, second: int) -> str:
    """Return the character of a pair of JIS X 0208 bytes (0x21 to 0x7E).

    It is decoded through Shift_JIS, whose Python codec has the vendors' characters that the
    Japanese codecs lack.
    """
    row, column = first - 0x21, second - 0x21
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = column + (0x9F if row % 2 else 0x40 + (column >= 0x3F))
    return bytes([lead, trail]).decode("cp932", "replace")[0]


def _decode_euc_jp(payload: bytes) -> str:
    """Use Python's codec if it knows all characters, else decode one character at a time."""
    try:
        return payload.decode("euc_jp").translate(OTHER_CHARACTERS["euc-jp"])
    except UnicodeDecodeError:
        return EUC_JP_CHARACTER.sub(_euc_jp_as_utf_8, payload).decode("utf-8")


def _euc_jp_as_utf_8(found: re.Match[bytes]) -> bytes:
    piece = found.group()
    if piece[0] < 0x80:
        return piece
    character = REPLACEMENT
    if len(piece) == 2 and piece[0] == 0x8E:  # half-width katakana
        character = chr(0xFF61 + piece[1] - 0xA1) if 0xA1 <= piece[1] <= 0xDF else REPLACEMENT
    elif len(piece) == 3:  # JIS X 0212
        character = piece.decode("euc_jp", "replace")[:1]
    elif len(piece) == 2 and min(piece) >= 0xA1 and max(piece) <= 0xFE:
        character = _jis_pair(piece[0] - 0x80, piece[1] - 0x80)
    return character.encode()


def _decode_iso_2022_jp(payload: bytes) -> str:
    """Decode the pieces between escape sequences, each in the character set that the last one
    chose.
    """
    pieces = ISO_2022_JP_ESCAPE.split(payload)
    modes = [b"(B", *pieces[1::2]]
    return "".join(map(_decode_iso_2022_jp_piece, modes, pieces[::2]))


def _decode_iso_2022_jp_piece(mode: bytes, piece: bytes) -> str:
    if mode in (b"(B", b"(J"):
        text = piece.decode("ascii", "replace").translate(NOT_IN_ISO_2022_JP)
        return text.translate(JIS_ROMAN) if mode == b"(J" else text
    if mode == b"(I":
        return "".join(
            chr(0xFF61 + byte - 0x21) if 0x21 <= byte < 0x60 else REPLACEMENT for byte in piece
        )
    characters, position = [], 0
    while position < len(piece):
        pair = piece[position : position + 2]
        if pair[:1] == b"\n":  # a line that does not switch back to ASCII
            characters.append("\n")
            position += 1
        elif len(pair) == 2 and min(pair) >= 0x21 and max(pair) <= 0x7E:
            characters.append(_jis_pair(*pair))
            position += 2
        else:
            characters.append(REPLACEMENT)
            position += 1 if len(pair) == 2 and not 0x21 <= pair[0] <= 0x7E else 2
    return "".join(characters)


# The prescan of HTML, section 13.2.3.2. It needs a separate small parser, because the characters
# are not known yet. Each step moves forward, so it is linear.
TAG_START = re.compile(rb"</?[a-zA-Z][^\t\n\x0c\r >]*")
META_START = re.compile(rb"<meta[\t\n\x0c\r /]", re.IGNORECASE)
ATTRIBUTE_NAME = re.compile(
    rb"[\t\n\x0c\r /]*+([^\t\n\x0c\r />][^\t\n\x0c\r />=]*+)[\t\n\x0c\r ]*+"
)
ATTRIBUTE_VALUE = re.compile(
    rb"""=[\t\n\x0c\r ]*+(?:"([^"]*+)"|'([^']*+)'|(?!["'])([^\t\n\x0c\r >]*+))"""
)
CONTENT_CHARSET = re.compile(
    r"""charset[\t\n\x0c\r ]*+=[\t\n\x0c\r ]*+"""
    r"""(?:"([^"]*+)"|'([^']*+)'|(?!["'])([^\t\n\x0c\r ;]++))""",
    re.IGNORECASE,
)
XML_ENCODING = re.compile(rb"""encoding[\x00-\x20]*+=[\x00-\x20]*+(?:"([^"]*+)"|'([^']*+)')""")


def prescan(head: bytes) -> str | None:
    """Return the encoding that the beginning of a page names in a <meta> or its XML declaration."""
    for start, encoding in ((b"<\0?\0x\0", "utf-16le"), (b"\0<\0?\0x", "utf-16be")):
        if head.startswith(start):
            return encoding
    return _meta_encoding(head) or _xml_encoding(head)


def _meta_encoding(head: bytes) -> str | None:
    position = 0
    while (position := head.find(b"<", position)) >= 0:
        if head.startswith(b"<!--", position):
            position = _after(head, b"-->", position + 2)  # "<!-->" is a whole comment
        elif found := META_START.match(head, position):
            attributes, position = _prescan_attributes(head, found.end() - 1)
            if encoding := _encoding_of_meta(attributes):
                return encoding
        elif found := TAG_START.match(head, position):
            _, position = _prescan_attributes(head, found.end())
        elif head[position + 1 : position + 2] in (b"!", b"/", b"?"):
            position = _after(head, b">", position)
        else:
            position += 1
    return None


def _after(head: bytes, mark: bytes, position: int) -> int:
    found = head.find(mark, position)
    return len(head) if found < 0 else found + len(mark)


def _prescan_attributes(head: bytes, position: int) -> tuple[dict[str, str], int]:
    """Return the attributes of a tag, the first of each name, and the position where they end.

    A tag that the end of the bytes cuts off has no attributes.
    """
    attributes: dict[str, str] = {}
    while found := ATTRIBUTE_NAME.match(head, position):
        name, position = found.group(1), found.end()
        value = b""
        if head.startswith(b"=", position):
            given = ATTRIBUTE_VALUE.match(head, position)
            if given is None:
                return {}, len(head)
            value, position = next(g for g in given.groups() if g is not None), given.end()
        attributes.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").lower())
    if b">" not in head[position:]:
        return {}, len(head)
    return attributes, position


def _encoding_of_meta(attributes: Mapping[str, str]) -> str | None:
    """Return a <meta>'s encoding: `charset`, or `content` with http-equiv="content-type"."""
    label = attributes.get("charset")
    if label is None and attributes.get("http-equiv", "").lower() == "content-type":
        found = CONTENT_CHARSET.search(attributes.get("content", ""))
        label = next(g for g in found.groups() if g is not None) if found else None
    encoding = encoding_of_label(label) if label is not None else None
    if encoding in ("utf-16le", "utf-16be"):  # bytes in which "<meta" was read are not UTF-16
        return "utf-8"
    return "windows-1252" if encoding == "x-user-defined" else encoding


def _xml_encoding(head: bytes) -> str | None:
    """Return the encoding by HTML's "get an XML encoding"."""
    if not head.startswith(b"<?xml") or b">" not in head:
        return None
    found = XML_ENCODING.search(head[: head.index(b">")])
    label = (found.group(1) or found.group(2) or b"") if found else b""
    if not label or min(label) <= 0x20:
        return None
    encoding = encoding_of_label(label.decode("latin-1"))
    return "utf-8" if encoding in ("utf-16le", "utf-16be") else encoding


def _late_meta(payload: bytes) -> str | None:
    """Return a later <meta>'s encoding, by HTML's "change the encoding while parsing"."""
    if len(payload) <= PRESCAN_BYTES:
        return None
    for token in tokens(payload[:LATE_META_CHARACTERS].decode("latin-1")):
        if isinstance(token, StartTag):
            if token.name == "body":
                return None
            if token.name == "meta" and (encoding := _encoding_of_meta(token.attributes)):
                return encoding
    return None
