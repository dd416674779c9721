"""a6.15: drafts from the text itself."""

import pytest
from speculative_oracle import lookup

pytestmark = pytest.mark.task("a6.15")
MODULE = "inference.speculative_decoding"
TEXT = [5, 1, 2, 3, 9, 1, 2, 4, 1, 2]
EARLIEST = "of several earlier occurrences, the latest counts, not the earliest"
SHORTEST = "try the longest n-gram first: the largest n counts"
ITSELF = (
    "the last n tokens were found at their own place, behind which is nothing; only earlier starts "
    "count"
)
BEYOND = "max_ngram is the longest n-gram that counts"
BEHIND = "the drafts are the tokens behind the n-gram, not the n-gram itself"


def at(text, n, start, num_drafts):
    return text[start + n : start + n + num_drafts]


@pytest.mark.parametrize(
    ("max_ngram", "num_drafts", "min_ngram", "expected"),
    [
        (3, 2, 1, [4, 1]),
        (3, 8, 1, [4, 1, 2]),
        (1, 1, 1, [4]),
        (3, 2, 3, []),
        (2, 1, 2, [4]),
        (3, 0, 1, []),
        (50, 2, 1, [4, 1]),
    ],
)
def test_the_table(implementation, a6, max_ngram, num_drafts, min_ngram, expected):
    got = implementation(MODULE).prompt_lookup(TEXT, max_ngram, num_drafts, min_ngram)
    n = 1 if max_ngram == 1 else 2
    causes = {
        EARLIEST: at(TEXT, n, 1 if n == 2 else 2, num_drafts),
        BEHIND: TEXT[-n:][:num_drafts],
        "at most num_drafts tokens are drafts": lambda got: len(got) > num_drafts,
        "no n-gram below min_ngram counts": lambda got: min_ngram == 3 and got,
        ITSELF + " (or nothing was found)": lambda got: got == [],
    }
    what = f"prompt_lookup({TEXT}, {max_ngram}, {num_drafts}, {min_ngram})"
    a6.expect(got, expected, what, causes)


@pytest.mark.parametrize(
    ("text", "max_ngram", "num_drafts", "expected", "causes"),
    [
        # 2, 3 at 0 and 4; only 3 at 7 is later
        ([2, 3, 8, 0, 2, 3, 7, 3, 6, 2, 3], 2, 2, [7, 3], {SHORTEST: [6, 2], EARLIEST: [8, 0]}),
        ([3, 5, 2, 3, 7, 2, 3], 1, 2, [7, 2], {EARLIEST: [5, 2], BEYOND: []}),
        ([2, 3, 8, 4, 3, 7, 2, 3], 1, 2, [7, 2], {BEYOND: [8, 4]}),
        ([7, 7, 7], 3, 4, [7], {EARLIEST: [7, 7], ITSELF: [], SHORTEST: [7, 7]}),
        ([7, 7, 7, 7], 1, 4, [7], {EARLIEST: [7, 7, 7], ITSELF: []}),
        ([1, 2, 1, 2, 1, 2], 3, 4, [1, 2], {ITSELF: [], EARLIEST: [2, 1, 2]}),
        ([11, 2, 5, 1, 2], 2, 2, [5, 1], {"1 is not the end of 11": []}),
        ([1, 12, 5, 1, 2], 2, 2, [], {"12 does not begin with 2: compare ids": [5, 1]}),
        ([0, 5, 0], 2, 2, [5, 0], {"the token 0 is a token, too": []}),
    ],
)
def test_which_occurrence(implementation, a6, text, max_ngram, num_drafts, expected, causes):
    got = implementation(MODULE).prompt_lookup(text, max_ngram, num_drafts)
    a6.expect(got, expected, f"prompt_lookup({text}, {max_ngram}, {num_drafts})", causes)


@pytest.mark.parametrize("text", [[], [4], [4, 5], [4, 5, 6, 7]])
def test_nothing_occurred_before(implementation, a6, text):
    got = implementation(MODULE).prompt_lookup(text, 3, 4)
    causes = {"a slice with a negative start counts from the end": lambda got: got}
    a6.expect(got, [], f"prompt_lookup({text}, 3, 4)", causes)


def test_all_texts_of_six_tokens(implementation, a6):
    module = implementation(MODULE)
    for number in range(3**6):
        text = [number // 3**place % 3 for place in range(6)]
        for max_ngram, min_ngram in ((3, 1), (2, 2)):
            got = module.prompt_lookup(text, max_ngram, 3, min_ngram)
            a6.expect(
                got,
                lookup(text, max_ngram, 3, min_ngram),
                f"prompt_lookup({text}, {max_ngram}, 3, {min_ngram})",
                {
                    "try the longest n-gram first": lookup(text, 1, 3),
                    "the drafts end with the text": lambda got: None in got,
                },
            )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((3, 4, 0), ["0", "3"]), ((3, 4, 5), ["5", "3"]), ((0, 4), ["1", "0"]), ((3, -2), ["-2"])],
)
def test_refused(implementation, a6, arguments, named):
    module = implementation(MODULE)
    what = f"prompt_lookup({TEXT}, {', '.join(map(str, arguments))})"
    a6.raises(ValueError, lambda: module.prompt_lookup(TEXT, *arguments), what, named)


@pytest.mark.parametrize("kind", ["without an earlier occurrence", "of the same two tokens"])
def test_the_work_is_linear(implementation, a6, kind):
    module = implementation(MODULE)
    size, max_ngram = 2000, 4
    text = list(range(size)) if kind.startswith("without") else [1, 2] * (size // 2) + [3, 3]
    most = 20 * len(text) * max_ngram + 200
    with a6.StepCounter(limit=most) as counter:
        module.prompt_lookup(text, max_ngram, 5)
    a6.true(
        counter.steps <= most,
        f"a look-up in a text of {len(text):,} tokens {kind} takes more than {most:,} steps: the "
        "steps for one n must not grow with the square of the text; is a loop over the text inside "
        "another one?",
    )
