"""Stop strings by hand, and against a search in the whole text for every cut into pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.stop_strings import StopStringFilter, fallbacks
from lm_course.containment.step_counter import StepCounter


def shown(stop: list[str], pieces: list[str]) -> tuple[list[str], str, str | None]:
    passed = StopStringFilter(stop)
    return [passed.push(piece) for piece in pieces], passed.finish(), passed.stopped_by


def first_stop(stop: list[str], text: str) -> tuple[str, str | None]:
    """Search the whole text; return what comes before the first stop string, and that string."""
    for end in range(len(text) + 1):
        for each in stop:
            if text[:end].endswith(each):
                return text[: end - len(each)], each
    return text, None


def held(stop: list[str], text: str) -> str:
    """Return the longest end of a text that a stop string begins with, by trying all."""
    ends = (text[start:] for start in range(len(text) + 1))
    return next(end for end in ends if any(each.startswith(end) for each in stop) or not end)


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        (["END"], ["Hi", " E", "ND!"], (["Hi", " ", ""], "", "END")),
        (["END"], ["Hi E", "N", "Z"], (["Hi ", "", "ENZ"], "", None)),
        (["END"], ["Hi E"], (["Hi "], "E", None)),
        (["aab"], ["aaab"], (["a"], "", "aab")),
        (["aab"], list("aaab"), (["", "", "a", ""], "", "aab")),
        (["abab"], list("abacabab"), (["", "", "", "abac", "", "", "", ""], "", "abab")),
        (["abc", "b"], ["xabc"], (["xa"], "", "b")),
        (["abc", "bc"], ["xabc"], (["x"], "", "abc")),
        (["bc", "abc"], ["xabc"], (["xa"], "", "bc")),
        ([], ["a", "", "b"], (["a", "", "b"], "", None)),
        (["\n\n"], ["a\n", "b", "\n", "\nc", "d"], (["a", "\nb", "", "", ""], "", "\n\n")),
    ],
)
def test_by_hand(stop: list[str], pieces: list[str], expected: tuple) -> None:
    assert shown(stop, pieces) == expected


@given(
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
    st.lists(st.text("abc", max_size=5), max_size=8),
)
def test_any_cut_gives_what_a_search_of_the_whole_text_gives(
    stop: list[str], pieces: list[str]
) -> None:
    text = "".join(pieces)
    expected, by = first_stop(stop, text)
    passed, rest, stopped_by = shown(stop, pieces)
    assert ("".join(passed) + rest, stopped_by) == (expected, by)
    for count, so_far in enumerate(itertools.accumulate(pieces), 1):
        if first_stop(stop, so_far)[1] is None:
            seen = "".join(passed[:count])
            assert seen + held(stop, so_far) == so_far


def test_after_the_end_nothing_comes() -> None:
    passed = StopStringFilter(["x"])
    assert passed.push("abx") == "ab"
    assert passed.push("more") == ""
    assert passed.finish() == ""
    passed = StopStringFilter(["xy"])
    assert passed.push("abx") == "ab"
    assert [passed.finish(), passed.finish()] == ["x", ""]


def test_the_work_does_not_grow_with_the_text() -> None:
    """A stop string of 300 characters is nearly complete at every character."""
    passed = StopStringFilter(["a" * 300 + "b"])
    with StepCounter() as counter:
        for _ in range(2000):
            passed.push("a")
    assert counter.steps < 40 * 2000


@pytest.mark.parametrize("stop", ["abcab", "aabaaab", "aaaa", "ab"])
def test_fallbacks_by_trying_all(stop: str) -> None:
    for end, length in enumerate(fallbacks(stop), 1):
        part = stop[:end]
        assert length == max(size for size in range(end) if part.endswith(part[:size]))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a stop string is empty, .*: \['x', ''\]"):
        StopStringFilter(["x", ""])
    with pytest.raises(ValueError, match="must be a list of strings, got the string 'END'"):
        StopStringFilter("END")
