"""a6.8: stop strings in a text that comes in pieces."""

import tracemalloc

import pytest
from sampling_oracle import first_stop, held, shown

pytestmark = pytest.mark.task("a6.8")
MODULE = "inference.stop_strings"


def run(module, stop, pieces):
    made = module.StopStringFilter(stop)
    return [made.push(piece) for piece in pieces], made.finish(), made.stopped_by


def causes_of(stop, pieces):
    """Return what typical mistakes give: (results of push, finish, stopped_by)."""
    text = "".join(pieces)
    position, by = first_stop(stop, text)

    def joined(got):
        return "".join(got[0]) + got[1]

    def earliest(got):
        places = [(text.find(each), each) for each in stop if each in text]
        return bool(places) and got[2] == min(places)[1] != by

    return {
        "`push` must return text, also when it is empty": lambda got: None in got[0],
        "a stop string that is cut by the end of a piece is not found": lambda got: (
            by is not None and got[2] is None
        ),
        "a part of the stop string is shown: hold back the end of a text that a stop string begins "
        "with": lambda got: by is not None and joined(got).startswith(text[: position + 1]),
        "the stop string is not shown": lambda got: by is not None and by in joined(got),
        "the first stop string is the one that is complete first": lambda got: (
            got[2] is not None and got[2] != by
        ),
        "the first stop string is the one that is complete first, not the one that begins first": (
            earliest
        ),
        "text is lost: what was held back is shown as soon as it cannot be a stop string": (
            lambda got: by is None and len(joined(got)) < len(text)
        ),
        "`finish` returns what is still held back": lambda got: (
            by is None and got[1] != held(stop, text) and "".join(got[0]) + got[1] != text
        ),
        "text is held back although no stop string begins with it; show it at once": lambda got: (
            joined(got) == text[:position]
        ),
    }


def check(implementation, a6, stop, pieces):
    got = run(implementation(MODULE), stop, pieces)
    what = f"StopStringFilter({stop}) and the pieces {pieces}: (push, finish, stopped_by)"
    a6.expect(got, shown(stop, pieces), what, causes_of(stop, pieces))


def test_across_pieces(implementation, a6):
    for stop, pieces in [
        (["END"], ["Hi", " E", "ND!"]),
        (["END"], ["Hi E", "N", "Z"]),
        (["END"], ["Hi E"]),
        (["END"], ["HiEND", "more"]),
        (["END"], ["END"]),
        (["\n\n"], ["a\n", "b", "\n", "\nc", "d"]),
        (["\nUser:"], ["yes", ".\n", "Us", "age", "\nUse", "r: no"]),
        ([], ["a", "", "b"]),
        (["xyz"], ["", "x", "", "y", ""]),
        (["é!"], ["caf", "é", "é", "!"]),
    ]:
        check(implementation, a6, stop, pieces)


def test_stop_strings_that_overlap_themselves(implementation, a6):
    for stop, text in [
        ("aab", "aaab"),
        ("abab", "abaabab!"),
        ("aab", "aaaaab."),
        ("abab!", "abababab!"),
        ("abac", "abababac"),
        ("aaa", "aabaaaa"),
        ("abcabd", "abcabcabd"),
        ("\n\n-", "a\n\n\n-"),
    ]:
        check(implementation, a6, [stop], [text])
        check(implementation, a6, [stop], list(text))


def test_several_stop_strings(implementation, a6):
    for stop, text in [
        (["abc", "b"], "xabc"),
        (["abc", "bc"], "xabc"),
        (["bc", "abc"], "xabc"),
        (["abcd", "bc"], "abcd"),
        (["END", "STOP"], "a STOP b END"),
        (["STOP", "END"], "a ENDSTOP"),
        (["ab", "abc"], "xabc"),
        (["abc", "ab"], "xabc"),
        (["longer text", "x"], "longer tex"),
        (["ba", "aab"], "aaba"),
    ]:
        check(implementation, a6, stop, [text])
        check(implementation, a6, stop, list(text))
        check(implementation, a6, stop, [text[:2], text[2:3], text[3:], "abc"])


def test_no_cut_changes_the_answer(implementation, a6):
    module = implementation(MODULE)
    stop, text = ["aab", "bba", "cb"], "abaacabbcaaab tail"
    expected = shown(stop, [text])[0][0]
    for first in range(len(text)):
        for second in range(first, len(text)):
            pieces = [text[:first], text[first:second], text[second:]]
            results, rest, by = run(module, stop, pieces)
            what = f"all that StopStringFilter({stop}) shows of the pieces {pieces}"
            a6.expect(("".join(results) + rest, by), (expected, "aab"), what)


def test_after_the_end(implementation, a6):
    module = implementation(MODULE)
    made = module.StopStringFilter(["ab"])
    a6.expect(made.stopped_by, None, "stopped_by before any text")
    got = [made.push("xa"), made.push("by"), made.push("cab"), made.push(""), made.finish()]
    causes = {"after a stop string, `push` returns an empty text": ["x", "", "c", "", ""]}
    a6.expect(got, ["x", "", "", "", ""], "push of xa, by, cab, an empty piece; finish", causes)
    a6.expect(made.stopped_by, "ab", "stopped_by after the stop string ab")
    made = module.StopStringFilter(["abc"])
    got = [made.push("xab"), made.finish(), made.finish()]
    causes = {
        "`finish` returns what was held back": ["x", "", ""],
        "a second `finish` has nothing left": ["x", "ab", "ab"],
    }
    a6.expect(got, ["x", "ab", ""], "push of xab with the stop string abc; finish twice", causes)
    a6.expect(made.stopped_by, None, "stopped_by of a text that ends otherwise")


def test_two_filters_share_nothing(implementation, a6):
    module = implementation(MODULE)
    one, other = module.StopStringFilter(["ab"]), module.StopStringFilter(["cd"])
    got = [one.push("xa"), other.push("yb"), one.push("d"), other.push("c"), other.push("d")]
    a6.expect(got, ["x", "yb", "ad", "", ""], "pushes to two filters, of ab and of cd, in turn")
    a6.expect([one.stopped_by, other.stopped_by], [None, "cd"], "stopped_by of both")


def check_refused(implementation, a6, stop):
    module = implementation(MODULE)
    a6.raises(ValueError, lambda: module.StopStringFilter(stop), f"StopStringFilter({stop!r})", [])


def test_what_is_refused(implementation, a6):
    for stop in [[""], ["END", ""], ("", "a"), "END", ""]:
        check_refused(implementation, a6, stop)


def check_work(implementation, a6, size, length):
    made = implementation(MODULE).StopStringFilter(["a" * length + "b"])
    for _ in range(30):
        made.push("a" * 100)
    limit = 50 * (size + length + 1)
    with a6.StepCounter(limit=limit) as counter:
        made.push("a" * size)
    a6.true(
        not counter.stopped,
        f"a piece of {size:,} characters takes more than {limit:,} steps, for a stop string of "
        f"{length + 1} characters and 3,000 characters before: look at the new piece and at what "
        "is held back, and at each character a few times only",
    )


def test_the_work_for_a_piece(implementation, a6):
    """The text is always nearly a stop string, and some was pushed before."""
    for size, length in [(1, 150), (3000, 150), (3000, 3), (1, 3)]:
        check_work(implementation, a6, size, length)


def test_the_text_is_not_kept(implementation, a6):
    made = implementation(MODULE).StopStringFilter(["END", "\n\n"])
    made.push("x" * 5000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(40):
            made.push("x" * 5000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    a6.true(
        grown < 50_000,
        f"after 200,000 characters, the filter keeps {grown:,} bytes more than before: keep only "
        "what is held back, not the text that was shown",
    )
