"""a6.17: whole answers. Models are tables (speculative_models.py), except in one check."""

import pytest
import torch
from speculative_models import CYCLE, Table, cyclic_model
from speculative_oracle import likely_answers, run

pytestmark = pytest.mark.task("a6.17")
MODULE = "inference.speculative_decoding"
PROMPT = [1, 4, 2, 1, 4]
BY_LOOKUP = Table(seed=3, size=3.0, order=2)
TARGET = Table(seed=5, size=2.0, order=2)
SMALL = Table(seed=5, size=2.0, order=2, noise=0.7)
STALE = (
    "the cache still has keys of rejected drafts, or too few of the text: before a pass it holds "
    "the text without its last token"
)


def settings(**fields):
    from inference.sampling import SamplingSettings

    return SamplingSettings(**{"temperature": 1.0, **fields})


def check_reads(a6, model, prompt, answer, given, what):
    """Compare what each pass read and what was in the cache."""
    read = model.passes
    while len(read) > 1 and len(read[0][0]) + len(read[0][1]) < len(prompt):
        (before, first), (_, second), *others = read  # the prompt in several parts
        read = [(before, first + second), *others]
    a6.expect(read[0], ([], prompt), f"{what}: what the first pass read, (cached, read)", {
        "the cache of the model must be a new one": lambda got: got[0],
        "the first pass reads the prompt, without drafts": lambda got: len(got[1]) > len(prompt),
    })  # fmt: skip
    written = 1
    for number, (expected, (cached, got)) in enumerate(zip(given, read[1:], strict=False), 2):
        text = prompt + answer[:written]
        causes = {
            "not truncated after a rejection": lambda got, text=text: len(got) >= len(text),
            "truncated by too many, or the last token was read twice": (
                lambda got, text=text: got == text[: len(got)]
            ),
            "the last token of the text has not been read; what is in the cache at its place is "
            "a rejected draft": lambda got, text=text: len(got) == len(text) - 1,
        }
        a6.expect(cached, text[:-1], f"{what}: the tokens cached before pass {number}", causes)
        causes = {
            "the pass reads the last token of the answer and the drafts": expected[1:],
            "more drafts than may still be generated, less one": lambda got, right=expected: (
                len(got) > len(right) and got[: len(right)] == right
            ),
            "fewer drafts than asked for": lambda got, right=expected: (
                got == right[: len(got)] and got
            ),
            "these tokens were read in earlier passes": lambda got: len(got) > 5,
        }
        a6.expect(got, expected, f"{what}: what pass {number} read", causes)
        following = given[number - 1 : number]
        written = _length_at(answer, following, written, expected)
    a6.expect(len(read), 1 + len(given), f"{what}: the number of passes")


def _length_at(answer, following, written, expected):
    """Return how many tokens the answer has after a pass: as many of its drafts as are in the
    answer, and one more.
    """
    drafts = expected[1:]
    right = 0
    while right < len(drafts) and answer[written + right : written + right + 1] == [drafts[right]]:
        right += 1
    return written + right + 1


def test_the_table_of_the_handout(implementation, a6):
    model = cyclic_model()
    answer, num_passes = implementation(MODULE).speculative_generate(
        model, None, [1, 2, 3, 1], settings(), 6
    )
    a6.expect(answer, [2, 3, 1, 2, 3, 1], "the answer of the handout's model", {STALE: (
        lambda got: len(got) == 6)})  # fmt: skip
    given = [[2, 3, 1, 2], [3]]
    check_reads(a6, model, [1, 2, 3, 1], answer, given, "the handout's model")
    causes = {
        "the pass over the prompt counts, too": 2,
        "passes are counted, not tokens": 6,
        "after all drafts were accepted, the last row gives one more token": 4,
    }
    a6.expect(num_passes, 3, "the number of passes of the handout's model", causes)


def test_the_defaults(implementation, a6):
    """The last four tokens after the first pass, 4, 3, 1, 2, are at 0; the last three also at 6."""
    model, prompt = cyclic_model(), [4, 3, 1, 2, 0, 0, 3, 1, 2, 4, 4, 3, 1]
    expected = run(model, None, prompt, 9)
    answer, _ = implementation(MODULE).speculative_generate(model, None, prompt, settings(), 9)
    a6.expect(answer, expected.answer, "the answer without num_drafts and max_ngram")
    check_reads(a6, model, prompt, answer, expected.given, "without num_drafts and max_ngram")


def test_a_repeating_text_needs_few_passes(implementation, a6):
    model = cyclic_model(context_length=60)
    answer, num_passes = implementation(MODULE).speculative_generate(
        model, None, [2], settings(), 40, num_drafts=8
    )
    expected = run(model, None, [2], 40, num_drafts=8)
    a6.expect(answer, expected.answer, "40 tokens of a repeating text")
    a6.expect(num_passes, len(model.passes), "the number of passes, against the calls of the model")
    a6.true(
        num_passes <= expected.num_passes,
        f"40 tokens of a repeating text took {num_passes} passes, expected "
        f"{expected.num_passes}: every draft is right, so each pass yields one token more than it "
        "has drafts",
    )


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_answer_without_speculation(implementation, a6, seed):
    model = BY_LOOKUP.model()
    plain = run(model, None, PROMPT, 14, num_drafts=0, seed=seed)
    expected = run(model, None, PROMPT, 14, seed=seed)
    assert plain.answer == expected.answer
    got = implementation(MODULE).speculative_generate(model, None, PROMPT, settings(seed=seed), 14)
    what = f"with a look-up and seed {seed}, against generation without drafts"
    causes = likely_answers(
        lambda mistake: run(model, None, PROMPT, 14, seed=seed, mistake=mistake)
    )
    a6.expect(got[0], plain.answer, f"the answer {what}", {**causes, STALE: lambda got: True})
    check_reads(a6, model, PROMPT, got[0], expected.given, what)
    a6.expect(got[1], expected.num_passes, f"the number of passes {what}")


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.5])
def test_with_a_draft_model(implementation, a6, temperature):
    model, small = TARGET.model(), SMALL.model()
    options = {"temperature": temperature, "seed": 2, "num_drafts": 3}
    expected = run(model, small, PROMPT, 12, **options)
    got = implementation(MODULE).speculative_generate(
        model, small, PROMPT, settings(temperature=temperature, seed=2), 12, num_drafts=3
    )
    what = f"with a draft model, at temperature {temperature}"
    causes = likely_answers(lambda m: run(model, small, PROMPT, 12, **options, mistake=m))
    last = f"{STALE}; or the drafts or numbers are not those of the handout"
    a6.expect(got[0], expected.answer, f"the answer {what}", {**causes, last: lambda got: True})
    check_reads(a6, model, PROMPT, got[0], expected.given, what)
    a6.expect(got[1], expected.num_passes, f"the number of passes {what}")


@pytest.mark.parametrize("by", ["a look-up", "a draft model"])
def test_penalties(implementation, a6, by):
    """A model that repeats 1, 2, 3 until the penalty is large enough; drafts of a pass count."""
    for seed in (0, 1):
        model, small = BY_LOOKUP.model(), None
        model.rows = 0.3 * model.rows
        for token, following in CYCLE.items():
            model.rows[token + 1, following] = 3.0
        model.order = 1
        if by == "a draft model":
            small = BY_LOOKUP.model()
            small.rows, small.order = model.rows, 1
        prompt = [1, 2, 3, 1, 2, 3]
        options = {"seed": seed, "frequency": 1.0}
        expected = run(model, small, prompt, 12, **options)
        got, _ = implementation(MODULE).speculative_generate(
            model, small, prompt, settings(seed=seed, frequency_penalty=1.0), 12
        )
        causes = likely_answers(lambda m, ms=(model, small), p=prompt, o=options: run(
            *ms, p, 12, **o, mistake=m))  # fmt: skip
        a6.expect(got, expected.answer, f"the answer with a frequency penalty, by {by}", causes)


def test_what_the_draft_model_reads(implementation, a6):
    """Its cache loses what was rejected, and nothing else."""
    model, small = TARGET.model(), SMALL.model()
    expected = run(model, small, PROMPT, 14, seed=1)
    answer, _ = implementation(MODULE).speculative_generate(
        model, small, PROMPT, settings(seed=1), 14
    )
    a6.expect(answer, expected.answer, "the answer with a draft model")
    allowed = {()}
    for written in range(1, len(answer) + 1):
        allowed.add(tuple(PROMPT + answer[:written]))
    written = 1
    for given in expected.given:
        for drafts in range(len(given)):
            allowed.add(tuple(PROMPT + answer[: written - 1] + given[: drafts + 1]))
        written = _length_at(answer, [], written, given)
    for text in small.texts:
        a6.true(
            len(text) < len(PROMPT) or tuple(text) in allowed,
            "the draft model read a text that is neither the answer so far nor the answer with "
            "drafts",
            {
                "read": text,
                "likely": "keys of rejected drafts are still in its cache: truncate it",
            },
        )
    tokens = sum(map(len, small.given))
    drafted = sum(len(given) - 1 for given in expected.given)
    most = len(PROMPT) + drafted + 2 * len(expected.given)
    a6.true(
        tokens <= most,
        f"the draft model read {tokens} tokens for {drafted} drafts in {len(expected.given)} "
        f"passes, at most {most} are needed: after a rejection, keep the keys of the text in its "
        "cache",
    )


def test_a_draft_model_that_is_always_right(implementation, a6):
    model = TARGET.model()
    answer, num_passes = implementation(MODULE).speculative_generate(
        model, TARGET.model(), PROMPT, settings(seed=4), 13, num_drafts=3
    )
    causes = {
        "drafts were rejected although p / q is 1: is q the distribution that the draft was drawn "
        "from, and are both of the same place?": lambda got: got > 4,
        "the pass over the prompt counts, too": 3,
    }
    a6.expect(num_passes, 4, "passes for 1 + 3 * 4 tokens, the draft model being the model", causes)
    expected = run(model, model, PROMPT, 13, seed=4, num_drafts=3)
    a6.expect(answer, expected.answer, "the answer if the draft model is the model")


@pytest.mark.parametrize("places", [(0, 1), (2, 3), (4, 9)], ids=str)
def test_a_stop_token_inside_a_pass(implementation, a6, places):
    """The text counts up from 1, and every draft of the draft model is right."""
    module = implementation(MODULE)
    for place in places:
        model, small = counting_model(), counting_model()
        answer, _ = module.speculative_generate(
            model, small, [1], settings(), 12, stop_ids={2 + place, 99}, num_drafts=3
        )
        expected = list(range(2, 2 + place))
        causes = {
            "the stop token is not part of the answer": [*expected, 2 + place],
            "an accepted draft can be a stop token: what comes after it in this pass is dropped": (
                lambda got, most=place + 1: len(got) > most
            ),
            "the tokens of this pass before the stop token belong to the answer": (
                lambda got, least=place: len(got) < least
            ),
        }
        a6.expect(answer, expected, f"the answer with the stop token at place {place}", causes)


def counting_model(context_length=40):
    rows = torch.full((61, 20), float("-inf"))
    for token in range(20):
        rows[token + 1, min(token + 1, 19)] = 0.0
    table = Table(vocab_size=20, context_length=context_length, order=1).model()
    table.rows = rows
    return table


@pytest.mark.parametrize("by", ["a look-up", "a draft model"])
@pytest.mark.parametrize("limit", ["max_new_tokens", "context"])
def test_limits(implementation, a6, by, limit):
    module = implementation(MODULE)
    prompt = [1, 2, 3, 1, 2]
    for most in (1, 2, 3, 6):
        context_length = 40 if limit == "max_new_tokens" else len(prompt) + most - 1
        model, small = cyclic_model(context_length), cyclic_model(context_length)
        draft_model = small if by == "a draft model" else None
        max_new_tokens = most if limit == "max_new_tokens" else 30
        answer, _ = module.speculative_generate(
            model, draft_model, prompt, settings(), max_new_tokens
        )
        expected = [3]
        while len(expected) < most:
            expected.append(CYCLE[expected[-1]])
        causes = {
            "a pass yields as many tokens as it has drafts, and one more": (
                lambda got, most=most: len(got) > most
            ),
            "the last token is never read, so the answer may be one token longer than the context "
            "has room for": expected[:-1],
        }
        what = f"max_new_tokens {max_new_tokens}, a context of {context_length}, by {by}"
        a6.expect(answer, expected, f"the answer after 5 tokens: {what}", causes)


def test_a_draft_model_with_a_longer_context(implementation, a6):
    module = implementation(MODULE)
    model, small = cyclic_model(context_length=16), cyclic_model(context_length=32)
    what = "a model with a context of 16, a draft model with one of 32, the prompt [1, 2], 6 tokens"
    try:
        answer, _ = module.speculative_generate(model, small, [1, 2], settings(), 6)
    except ValueError as error:
        raise a6.GradedFailure(
            a6.message_of(
                f"{what}: refused",
                {
                    "expected": [3, 1, 2, 3, 1, 2],
                    "got": f"ValueError: {error}",
                    "likely": "only a draft model with a shorter context is refused",
                },
            )
        ) from error
    a6.expect(answer, [3, 1, 2, 3, 1, 2], f"the answer of {what}")


def test_a_real_model(implementation, a6):
    """Greedy decoding of a decoder with weights: positions must be right, too."""
    module = implementation(MODULE)
    model, small = a6.tiny_model(1), a6.tiny_model(2, num_layers=1)
    prompt, expected = [3, 1, 4, 1], []
    with torch.no_grad():
        while len(expected) < 9:
            row = model(torch.tensor([prompt + expected]))[0, -1]
            expected.append(int(row.argmax()))
    for draft, by in ((None, "a look-up"), (small, "a draft model")):
        answer, _ = module.speculative_generate(model, draft, prompt, settings(temperature=0.0), 9)
        a6.expect(answer, expected, f"greedy decoding of a real model, with {by}")


REFUSED = {
    "limits": [
        ({"max_new_tokens": 0}, []),
        ({"num_drafts": -1}, ["-1"]),
        ({"max_ngram": 0}, ["0"]),
        ({"max_ngram": 0, "draft_model": Table()}, ["0"]),
    ],
    "prompts": [({"prompt_ids": ids}, []) for ids in ([], [1] * 41, [1, 7])],
    "draft models": [
        ({"draft_model": Table(vocab_size=8)}, ["7", "8"]),
        ({"draft_model": Table(context_length=39)}, ["39", "40"]),
    ],
}


@pytest.mark.parametrize("which", REFUSED)
def test_refused(implementation, a6, which):
    module = implementation(MODULE)
    for changed, named in REFUSED[which]:
        given = {
            "model": TARGET.model(),
            "draft_model": None,
            "prompt_ids": PROMPT,
            "settings": settings(),
            "max_new_tokens": 4,
            **changed,
        }
        if given["draft_model"] is not None:
            given["draft_model"] = given["draft_model"].model()

        def call(given=given):
            return module.speculative_generate(**given)

        a6.raises(ValueError, call, f"speculative_generate with {changed}", named)
