"""a6.1: repetition, frequency and presence penalty, and the bias."""

import pytest
import torch
from sampling_oracle import penalized

pytestmark = pytest.mark.task("a6.1")
MODULE = "inference.sampling"
LOGITS = [2.0, -2.0, 1.0, -1.0, 0.0, 4.0]
PROMPT, ANSWER = [0, 1, 0], [2, 2, 3]
OFF = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
}


def expected(prompt=PROMPT, answer=ANSWER, **fields):
    return torch.tensor(penalized(LOGITS, prompt, answer, OFF | fields))


def check(implementation, a6, what, causes, prompt=PROMPT, answer=ANSWER, **fields):
    module = implementation(MODULE)
    got = module.penalize(torch.tensor(LOGITS), prompt, answer, module.SamplingSettings(**fields))
    what = f"penalize of {LOGITS}, prompt {prompt}, answer {answer}, {what}"
    a6.tensor(got, expected(prompt, answer, **fields), what, causes)


def test_the_table_of_the_handout(implementation, a6):
    fields = {
        "repetition_penalty": 2.0,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "logit_bias": {4: 3.0, 1: 1.0},
    }
    biased = [x + fields["logit_bias"].get(token, 0.0) for token, x in enumerate(LOGITS)]
    first = penalized(biased, PROMPT, ANSWER, fields | {"logit_bias": {}})
    lowered = penalized(LOGITS, PROMPT, ANSWER, fields | {"repetition_penalty": 1.0})
    late = penalized(lowered, PROMPT, ANSWER, OFF | {"repetition_penalty": 2.0})
    causes = {
        "the bias is added last, after the penalties": torch.tensor(first),
        "the repetition penalty comes first: it must see the model's logits, not lowered ones": (
            torch.tensor(late)
        ),
        "token 0 is in the prompt (twice), not in the answer: 2 is halved once, and nothing is "
        "subtracted": lambda got: bool(got[0] != 1),
        "token 2 is in the answer twice: 1 is halved once, then 2 * 0.25 and 0.5 once are "
        "subtracted": lambda got: bool(got[2] != -0.5),
    }
    check(implementation, a6, "the four settings of the handout", causes, **fields)


def test_the_repetition_penalty(implementation, a6):
    plain = torch.tensor(LOGITS)
    divided = plain / torch.tensor([2.0, 2, 2, 2, 1, 1])
    causes = {
        "a negative logit must be multiplied by the penalty: divided, it is more likely": divided,
        "it is the other way round: positive logits are divided, negative ones multiplied": (
            torch.tensor([4.0, -1, 2, -0.5, 0, 4])
        ),
        "the tokens of the prompt count too": expected([], ANSWER, repetition_penalty=2.0),
        "the tokens of the answer count too": expected(PROMPT, [], repetition_penalty=2.0),
        "a token that occurs twice is changed once": torch.tensor([0.5, -4, 0.25, -2, 0, 4]),
        "only tokens that occurred are changed": torch.tensor([1.0, -4, 0.5, -2, 0, 2]),
        "the logits are unchanged": plain,
    }
    check(implementation, a6, "repetition_penalty 2", causes, repetition_penalty=2.0)


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_presence_and_frequency(implementation, a6, name):
    by_count = expected(frequency_penalty=0.5)
    once = expected(presence_penalty=0.5)
    with_prompt = expected([], PROMPT + ANSWER, **{name: 0.5})
    only_prompt = expected([], PROMPT, **{name: 0.5})
    causes = {
        "the presence penalty is subtracted once, however often the token occurs": by_count,
        "the frequency penalty is subtracted once for each occurrence": once,
        "the prompt does not count, only the answer": with_prompt,
        "the answer counts, the prompt does not": only_prompt,
        "it is subtracted, not added": expected(**{name: -0.5}),
        "the logits are unchanged": torch.tensor(LOGITS),
    }
    check(implementation, a6, f"{name} 0.5", causes, **{name: 0.5})


def test_penalties_do_not_count_the_prompt(implementation, a6):
    """Token 0 is in the prompt three times and in the answer once."""
    fields = {"presence_penalty": 1.0, "frequency_penalty": 0.5}
    causes = {
        "the prompt does not count": expected([], [0, 0, 0, 0, 4], **fields),
        "both penalties are subtracted": expected([], [0, 4], presence_penalty=1.0),
    }
    check(implementation, a6, "presence 1, frequency 0.5", causes, [0, 0, 0], [0, 4], **fields)


def test_nothing_to_change(implementation, a6):
    """No tokens, and settings that are off."""
    check(implementation, a6, "settings that are off", {}, [0, 1], [2, 2])
    fields = {"repetition_penalty": 3.0, "presence_penalty": 2.0, "frequency_penalty": 2.0}
    check(implementation, a6, "no tokens at all", {}, [], [], **fields)


def test_the_logits_are_copied_in_float32(implementation, a6):
    module = implementation(MODULE)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        logits = torch.tensor([1.0, 256.0, 3.0], dtype=dtype)
        settings = module.SamplingSettings(logit_bias={1: 0.25})
        got = module.penalize(logits, [], [], settings)
        causes = {"convert to float32 first: bfloat16 has only 8 bits": torch.tensor([1.0, 256, 3])}
        what = f"penalize of {dtype} logits with a bias of 0.25 for token 1"
        a6.tensor(got, torch.tensor([1.0, 256.25, 3.0]), what, causes)
        a6.true(
            logits.tolist() == [1.0, 256.0, 3.0],
            "penalize changes the logits that it was given: return a new tensor",
        )
        got = module.penalize(logits, [], [], module.SamplingSettings())
        a6.true(
            got.data_ptr() != logits.data_ptr(),
            "penalize with settings that are off returns the tensor that it was given: return a "
            "new one",
        )


def test_hidden_tokens_stay_hidden(implementation, a6):
    module = implementation(MODULE)
    settings = module.SamplingSettings(
        repetition_penalty=0.5, presence_penalty=-2.0, frequency_penalty=1.0, logit_bias={0: 5.0}
    )
    logits = torch.tensor([float("-inf"), 1.0])
    got = module.penalize(logits, [0], [0, 0], settings)
    a6.tensor(got, logits, "penalize of minus infinity and 1, for token 0")


def check_lacking(implementation, a6, token):
    module = implementation(MODULE)
    settings = module.SamplingSettings(logit_bias={2: 1.0, token: 1.0})
    a6.raises(
        ValueError,
        lambda: module.penalize(torch.tensor(LOGITS), [0], [1], settings),
        f"penalize of 6 logits with a bias for token {token}",
        [str(token)],
    )


def test_a_bias_for_a_token_that_the_model_lacks(implementation, a6):
    for token in [6, 7, 999]:
        check_lacking(implementation, a6, token)
