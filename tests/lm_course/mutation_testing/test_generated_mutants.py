"""Mutants are generated for every task, and the choice of some does not depend on other code."""

import re

from lm_course.learning.assignment_file import load_assignment
from lm_course.mutation_testing.generated_mutants import GeneratedMutant, generate_mutants, sample
from lm_course.mutation_testing.source_text import Edit


def generated(toy_course) -> list[GeneratedMutant]:
    return generate_mutants(load_assignment("t1", toy_course.root), toy_course.root)


def test_every_edit_of_a_small_assignment(toy_course) -> None:
    mutants = generated(toy_course)
    assert [(mutant.tasks, mutant.operator, mutant.changed) for mutant in mutants] == [
        (("t1.2",), "cast", "return _counter(text)"),
        (("t1.3",), "arguments", "return max(counts)"),
        (("t1.3",), "order", "return min(counts, key=lambda letter: (counts[letter], letter))"),
        (
            *(("t1.4",), "condition"),
            "return {word: text.split().count(word) for word in text.split() if "
            "not (count_letters(word))}",
        ),
        (
            *(("t1.4",), "condition"),
            "return {word: text.split().count(word) for word in text.split() if True}",
        ),
    ]
    first = mutants[0]
    assert re.fullmatch(r"count_letters-cast-[0-9a-f]{6}", first.name)
    assert first.original == "return dict(_counter(text))"
    assert first.planted_in(toy_course.REFERENCE) == toy_course.REFERENCE.replace(
        "dict(_counter(text))", "_counter(text)"
    )


def test_lines_that_move_change_no_name(toy_course) -> None:
    before = [mutant.name for mutant in generated(toy_course)]
    moved = toy_course.REFERENCE.replace("LETTERS =", "# a comment\n\nLETTERS =")
    toy_course.write("toy_stage/counting.py", moved)
    mutants = generated(toy_course)
    assert [mutant.name for mutant in mutants] == before
    assert mutants[0].planted_in(moved) == moved.replace("dict(_counter(text))", "_counter(text)")


def test_two_edits_that_read_alike_are_one(toy_course) -> None:
    body = "    text = text[1:]\n    text = text[1:]\n    return dict(_counter(text))"
    text = toy_course.REFERENCE.replace("    return dict(_counter(text))", body)
    toy_course.write("toy_stage/counting.py", text)
    mutants = [mutant for mutant in generated(toy_course) if mutant.operator == "slice"]
    (mutant,) = mutants
    assert mutant.planted_in(text) == text.replace("text[1:]", "text[:]", 1)


def test_an_edit_that_is_no_python_is_left_out(toy_course) -> None:
    """Without list(), the result would be `(*text)`."""
    text = toy_course.REFERENCE.replace("dict(_counter(text))", "0, list(*text)")
    toy_course.write("toy_stage/counting.py", text)
    changed = [m.changed for m in generated(toy_course) if m.function == "count_letters"]
    assert changed == ["return list(*text), 0", "return 1, list(*text)"]


OPERATORS = ("constant", "comparison", "copy")


def many(function: str, task: str, number: int) -> list[GeneratedMutant]:
    return [
        GeneratedMutant((task,), "m", function, Edit(name, 0, 0, ""), f"{i}", f"{i} {name}")
        for name in OPERATORS
        for i in range(number)
    ]


def test_the_sample_is_spread_over_tasks_and_operators() -> None:
    chosen = sample([*many("f", "t1.1", 20), *many("g", "t1.2", 1)], per_task=6)
    assert [mutant.tasks[0] for mutant in chosen] == ["t1.1"] * 6 + ["t1.2"] * 3
    assert sorted(mutant.operator for mutant in chosen[:6]) == sorted(OPERATORS * 2)
    rare = [sample(many(name, "t1.1", 20), per_task=1)[0].operator for name in "abcdefgh"]
    assert set(rare) == {"copy"}


def test_the_sample_depends_on_nothing_but_the_text() -> None:
    before = many("f", "t1.1", 20)
    chosen = {mutant.key for mutant in sample(before)}
    assert {mutant.key for mutant in sample(reversed(before))} == chosen
    # Edits of another task, and those of this task that were not chosen, make no difference.
    assert {mutant.key for mutant in sample([*before, *many("g", "t1.2", 9)])} >= chosen
    kept = [mutant for number, mutant in enumerate(before) if mutant.key in chosen or number % 2]
    assert {mutant.key for mutant in sample(kept)} == chosen
