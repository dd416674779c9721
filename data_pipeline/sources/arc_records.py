"""The header lines of ARC files, versions 1 and 2, the format of web crawls before WARC.

    URL IP-address date content-type length                                     (version 1)
    URL IP-address date content-type status checksum location offset file length  (version 2)

The document that the server sent follows, `length` bytes, and then a line end. The first record,
whose URL begins with `filedesc:`, says the version and describes the file. Source: Burner and
Kahle, "Arc File Format", Internet Archive, 1996; "1 1" as the first words of the description are
what is called ARC 1.1, in which more of the description is XML.

What this leaves out: documents that were not fetched by HTTP.
"""

import re

SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,30}+:")
ADDRESS = re.compile(rb"[0-9a-fA-F]*+[.:][0-9a-fA-F.:]++")  # IPv4 or IPv6
DATE = re.compile(rb"[0-9]{8,17}")
LENGTH = re.compile(rb"[0-9]{1,18}")
DESCRIPTION = "filedesc:"


def arc_headers(line: bytes) -> dict[str, str] | None:
    """Return the headers that a WARC record would have, None if the line is not a record's first.

    A URL may contain spaces, and so may the content type: the address and the date between them
    show where they end.
    """
    if not SCHEME.match(line):
        return None
    fields = line.rstrip(b"\r\n").split(b" ")
    if not LENGTH.fullmatch(fields[-1]):
        return None
    for place in range(2, len(fields) - 2):
        if DATE.fullmatch(fields[place]) and ADDRESS.fullmatch(fields[place - 1]):
            break
    else:
        return None
    url = b" ".join(fields[: place - 1]).decode("utf-8", "replace")
    scheme = url.partition(":")[0].lower()
    is_page = scheme in ("http", "https")
    return {
        "warc-type": "warcinfo" if url.startswith(DESCRIPTION) else "response",
        "warc-target-uri": url,
        "content-type": "application/http" if is_page else scheme,
        "warc-identified-payload-type": fields[place + 1].decode("ascii", "replace"),
        "content-length": fields[-1].decode("ascii"),
    }


def may_follow(following: bytes) -> bool:
    """Return whether the bytes after a document are those that the format has there: a line end,
    and then the end of the file or a URL.
    """
    rest = following.lstrip(b"\r\n")
    return not rest or (rest != following and SCHEME.match(rest) is not None)
