"""a1.1: the written questions. A check recomputes the answer where possible."""

import pytest

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import check_true

pytestmark = pytest.mark.task("a1.1")
OWL = "🦉"


def answered_bytes(answers, key):
    """Return an answer such as "c3 a9" as bytes."""
    found = str(answers[key])
    try:
        return bytes.fromhex(found.removeprefix("0x"))
    except ValueError:
        raise GradedFailure(
            f'{key}: expected bytes, got {found!r}: write two hex digits per byte, as in "c3 a9"'
        ) from None


def check_number(answers, key, expected, causes):
    """Compare an answer; `causes` maps a likely cause to the wrong number that it gives."""
    found = answers.number(key)
    likely = next((f": {cause}" for cause, wrong in causes.items() if wrong == found), "")
    check_true(found == expected, f"{key}: {found:.15g} is not right{likely}")


def test_utf8_bytes_of_owl(answers):
    found = answered_bytes(answers, "utf8_bytes_of_owl")
    likely = ""
    if found.endswith((OWL.encode("utf-16-be"), OWL.encode("utf-16-le"))):
        likely = ": this is UTF-16, and the question asks for UTF-8"
    elif found.lstrip(b"\0") == b"\x01\xf9\x89":
        likely = ": this is the code point itself; UTF-8 distributes its bits over four bytes"
    check_true(found == OWL.encode(), f"utf8_bytes_of_owl: {found.hex(' ')} is not right{likely}")


def test_bytes_of_text(answers):
    text = "naïve 東京"
    causes = {
        "this is the number of characters, three of which take more than one byte": len(text),
        "this is the length in UTF-16, with a byte order mark": len(text.encode("utf-16")),
        "this is the length in UTF-16": len(text.encode("utf-16-le")),
    }
    check_number(answers, "bytes_of_text", len(text.encode()), causes)


def test_ids_for_every_code_point(answers):
    surrogates = "subtract the 2,048 surrogates, which occur in no text"
    causes = {surrogates: 0x110000, f"U+0000 is a code point too; {surrogates}": 0x10FFFF}
    check_number(answers, "ids_for_every_code_point", 0x110000 - 0x800, causes)


def test_two_invalid_bytes(answers):
    found = answered_bytes(answers, "two_invalid_bytes")
    check_true(len(found) == 2, f"two_invalid_bytes: expected two bytes, got {len(found)}")
    text = found.decode("utf-8", errors="replace")
    check_true(
        "\ufffd" in text,
        f"two_invalid_bytes: {found.hex(' ')} is valid UTF-8, the text {text!r}: choose two that "
        "are not",
    )
    for byte in found:
        check_true(
            byte not in (0xC0, 0xC1) and byte < 0xF5,
            f"two_invalid_bytes: {byte:02x} never occurs in UTF-8: choose two bytes that do occur, "
            "in an order that does not",
        )


def replacements(parts):
    return sum(part.decode("utf-8", errors="replace").count("\ufffd") for part in parts)


@pytest.mark.parametrize("how", ["together", "apart"])
def test_replacement_characters(answers, how):
    start = OWL.encode()[:3]
    counts = {"together": replacements([start]), "apart": replacements([bytes([b]) for b in start])}
    expected = counts.pop(how)
    causes = {
        f"this is the number of U+FFFD with the bytes decoded {other}": count
        for other, count in counts.items()
    }
    check_number(answers, f"replacement_characters_{how}", expected, causes)


def test_most_ids_for_ten_bytes(answers):
    causes = {
        "this is the smallest number of ids; the question asks for the largest": 1,
        "each byte is one id, whatever its value": 2560,
    }
    check_number(answers, "most_ids_for_ten_bytes", 10, causes)
