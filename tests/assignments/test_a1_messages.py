"""The messages of assignment a1 about common mistakes, and the given code in its handout."""

import inspect
import re
from pathlib import Path

import pytest

from lm_course.learning.assignment_file import load_assignment
from lm_course.mutation_testing.mutant_runs import run_mutants
from lm_course.mutation_testing.mutants import Mutant
from tokenizer_bpe.inputs import input_checks

A1 = load_assignment("a1")
PROJECT = Path(__file__).parents[2]
HANDOUT = (PROJECT / "assignments" / "a1" / "README.md").read_text(encoding="utf-8")
RULE = "the larger pair of byte strings must win"


MISTAKES = [
    (
        "a1.4",
        "naive_training",
        "key=lambda pair: (pairs[pair], pair)",
        "key=pairs.get",
        "first",
    ),
    (
        *("a1.4", "naive_training", "key=lambda pair: (pairs[pair], pair)"),
        *("key=lambda pair: (pairs[pair], [-byte for byte in pair[0] + pair[1]])", "smaller"),
    ),
    (
        *("a1.6", "pretokenization", "for piece in [*pieces, text[end:]] if piece]"),
        *("for piece in [*pieces, text[end:]]]", "drop empty pieces"),
    ),
    (
        *("a1.14", "tokenizer", 'raise UserError(f"token id {token_id} is not'),
        *('raise AssertionError(f"token id {token_id} is not', "with another error"),
    ),
    (
        *("a1.2", "naive_training", "    return pairs\n", "    return pairs.items()\n"),
        "count_pairs: expected a dict, got a dict_items",
    ),
    (
        *("a1.2", "naive_training", "    return pairs\n", ""),
        "count_pairs returned None; is `return` missing?",
    ),
    (
        *("a1.9", "naive_training", "return dict(enumerate(tokens)), merges"),
        *(
            "return merges, dict(enumerate(tokens))",
            "returns (merges, vocab): return the vocabulary",
        ),
    ),
    (
        *("a1.9", "naive_training", "return dict(enumerate(tokens)), merges"),
        *("dict(enumerate(tokens)), merges", "returned None; is `return` missing?"),
    ),
]
NAMES = ["first", "smaller", "empty", "assert", "items", "no-return", "swapped", "none"]


@pytest.fixture(scope="module")
def messages() -> dict[str, str]:
    """Name of a mistake -> the message about it. All are graded in one run of the suite."""
    mutants = [
        Mutant(name=name, task=task, module=module, find=find, replace=replace, why="")
        for name, (task, module, find, replace, _) in zip(NAMES, MISTAKES, strict=True)
    ]
    verdicts = run_mutants(A1, mutants, processes=1)
    return {verdict.mutant.name: verdict.message for verdict in verdicts}


@pytest.mark.parametrize(
    ("name", "told"), [(n, row[-1]) for n, row in zip(NAMES, MISTAKES, strict=True)], ids=NAMES
)
def test_a_common_mistake_is_told_by_its_cause(messages, name, told):
    if told in ("first", "smaller"):
        told = "to the pair seen first: " if told == "first" else "to the smaller pair: "
        told += RULE
    assert told in messages[name]


def test_the_handout_shows_the_given_checks_as_they_are():
    for name in ("check_special_tokens", "check_vocab_size", "utf8_bytes", "check_merges"):
        parameters = inspect.signature(getattr(input_checks, name)).parameters
        shown = re.search(rf"^{name}\((.*?)\) -> ", HANDOUT, re.MULTILINE | re.DOTALL)
        assert re.findall(r"(\w+): ", shown[1]) == list(parameters)
