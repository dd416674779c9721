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


TABLE = [
    (3, 2, 1, [4, 1]),
    (3, 8, 1, [4, 1, 2]),
    (1, 1, 1, [4]),
    (3, 2, 3, []),
    (2, 1, 2, [4]),
    (3, 0, 1, []),
    (50, 2, 1, [4, 1]),
]


@pytest.mark.parametrize("rows", [TABLE[:4], TABLE[4:]], ids=["of the handout", "others"])
def test_the_table(implementation, a6, rows):
    module = implementation(MODULE)
    for max_ngram, num_drafts, min_ngram, expected in rows:
        n = 1 if max_ngram == 1 else 2
        causes = {
            EARLIEST: at(TEXT, n, 1 if n == 2 else 2, num_drafts),
            BEHIND: TEXT[-n:][:num_drafts],
            "at most num_drafts tokens are drafts": lambda got, most=num_drafts: len(got) > most,
            "no n-gram below min_ngram counts": lambda got, least=min_ngram: least == 3 and got,
            ITSELF + " (or nothing was found)": lambda got: got == [],
        }
        got = module.prompt_lookup(TEXT, max_ngram, num_drafts, min_ngram)
        what = f"prompt_lookup({TEXT}, {max_ngram}, {num_drafts}, {min_ngram})"
        a6.expect(got, expected, what, causes)


# Text, max_ngram, num_drafts, expected, causes. In the first one, 2, 3 is at 0 and 4; 3 is at 7.
OCCURRENCES = {
    "longest first": [
        ([2, 3, 8, 0, 2, 3, 7, 3, 6, 2, 3], 2, 2, [7, 3], {SHORTEST: [6, 2], EARLIEST: [8, 0]}),
        ([2, 3, 8, 4, 3, 7, 2, 3], 1, 2, [7, 2], {BEYOND: [8, 4]}),
        ([4, 2, 3, 8, 5, 2, 3, 7, 4, 2, 3], 1, 2, [7, 4], {BEYOND: [8, 5]}),
    ],
    "latest": [
        ([3, 5, 2, 3, 7, 2, 3], 1, 2, [7, 2], {EARLIEST: [5, 2]}),
        ([7, 7, 7, 7], 1, 4, [7], {EARLIEST: [7, 7, 7], ITSELF: []}),
    ],
    "overlapping": [
        ([7, 7, 7], 3, 4, [7], {EARLIEST: [7, 7], ITSELF: []}),
        ([1, 2, 1, 2, 1, 2], 3, 4, [1, 2], {ITSELF: [], EARLIEST: [2, 1, 2]}),
    ],
    "ids": [
        ([11, 2, 5, 1, 2], 2, 2, [5, 1], {"1 is not the end of 11: compare ids": []}),
        ([1, 12, 5, 1, 2], 2, 2, [], {"12 does not begin with 1: compare ids": [5, 1]}),
        ([0, 5, 0], 2, 2, [5, 0], {"the token 0 is a token, too": []}),
    ],
}


@pytest.mark.parametrize("which", OCCURRENCES)
def test_which_occurrence(implementation, a6, which):
    module = implementation(MODULE)
    for text, max_ngram, num_drafts, expected, causes in OCCURRENCES[which]:
        got = module.prompt_lookup(text, max_ngram, num_drafts)
        a6.expect(got, expected, f"prompt_lookup({text}, {max_ngram}, {num_drafts})", causes)


def test_nothing_occurred_before(implementation, a6):
    module = implementation(MODULE)
    for text in ([], [4], [4, 5], [4, 5, 6, 7]):
        got = module.prompt_lookup(text, 3, 4)
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


def test_refused(implementation, a6):
    module = implementation(MODULE)
    for arguments, named in (
        ((3, 4, 0), ["0", "3"]),
        ((3, 4, 5), ["5", "3"]),
        ((0, 4), ["1", "0"]),
        ((3, -2), ["-2"]),
    ):
        what = f"prompt_lookup({TEXT}, {', '.join(map(str, arguments))})"

        def call(arguments=arguments):
            return module.prompt_lookup(TEXT, *arguments)

        a6.raises(ValueError, call, what, named)


def test_the_work_is_linear(implementation, a6):
    module = implementation(MODULE)
    size, max_ngram = 1200, 4
    for kind, text in (
        ("without an earlier occurrence", list(range(size))),
        ("of the same two tokens", [1, 2] * (size // 2) + [3, 3]),
        ("of one token that ends with another", [1] * size + [2]),
    ):
        most = 20 * len(text) * max_ngram + 200
        with a6.StepCounter(limit=most) as counter:
            module.prompt_lookup(text, max_ngram, 5)
        a6.true(
            counter.steps <= most,
            f"a look-up in a text of {len(text):,} tokens {kind} takes more than {most:,} steps: "
            "the steps for one n must not grow with the square of the text; is a loop over the "
            "text inside another one?",
        )
