"""Generated mistakes: edits of the code that learners write, made by the mutation operators.

Of all edits, each task gets a few, spread over the operators. Which they are depends on hashes of
their own text only, so an edit of one function does not replace the mistakes in others.

What this leaves out: which code that is (graded_functions), constants of a module, and equivalent
mutants (survivors.toml lists those).
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lm_course.learning.assignment_file import Assignment
from lm_course.learning.stubs import Function, functions_of, lessons_of
from lm_course.locations import PROJECT
from lm_course.mutation_testing.graded_functions import tasks_of_functions
from lm_course.mutation_testing.mutation_operators import edits_of
from lm_course.mutation_testing.source_text import Edit, Source

PER_TASK = 10  # about 150 mistakes for an assignment
RARE = {"copy", "loop", "order", "result"}  # operators that few functions have a place for


@dataclass(frozen=True)
class GeneratedMutant:
    """One edit of one function. Two edits of a function that read alike are one.

    Attributes:
        tasks: those of the function.
        module: the graded module.
        function: "function" or "Class.method".
        edit: the change of the module's text.
        original: the lines that it changes, without indentation.
        changed: the same lines with the mistake.
    """

    tasks: tuple[str, ...]
    module: str
    function: str
    edit: Edit = field(compare=False)
    original: str
    changed: str
    check: str = ""
    why: str = ""

    @property
    def operator(self) -> str:
        return self.edit.operator

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """The text that tells it from others, wherever it is in the module."""
        return self.module, self.function, self.operator, self.original, self.changed

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.key).encode()).hexdigest()

    @property
    def name(self) -> str:
        return f"{self.function}-{self.operator}-{self.digest[:6]}"

    def planted_in(self, source: str) -> str:
        """Return the module's text with the mistake in it."""
        return Source(source).edited(self.edit)


def generate_mutants(assignment: Assignment, root: Path = PROJECT) -> list[GeneratedMutant]:
    """Return every edit of an assignment's code that is still Python, in the order of the tasks."""
    lessons = lessons_of(assignment, root)
    order = [task.id for task in assignment.tasks]
    tasks_of = tasks_of_functions(lessons, order)
    found: dict[tuple[str, ...], GeneratedMutant] = {}
    for lesson in lessons:
        source = Source(lesson.source)
        for name, function in functions_of(source.tree):
            tasks = tasks_of[lesson.name].get(name, ())
            for edit in edits_of(function, source) if tasks else ():
                mutant = GeneratedMutant(tasks, lesson.name, name, edit, *source.lines_around(edit))
                if mutant.key not in found and is_python(function, edit, source):
                    found[mutant.key] = mutant
    return sorted(found.values(), key=lambda mutant: order.index(mutant.tasks[0]))


def is_python(function: Function, edit: Edit, source: Source) -> bool:
    """Return True if the function can still be parsed after this edit."""
    first, last = source.line_starts[function.lineno - 1], source.end(function)
    text = source.text[first : edit.start] + edit.replacement + source.text[edit.end : last]
    try:
        ast.parse(f"if True:\n{text}" if function.col_offset else text)
    except SyntaxError:
        return False
    return True


def sample(mutants: Iterable[GeneratedMutant], per_task: int = PER_TASK) -> list[GeneratedMutant]:
    """Return some mutants of each task, spread over the operators.

    The mutants of an operator come in the order of their hashes: first one of each operator, the
    rare ones before the others, then a second one, until there are enough.
    """
    by_task = defaultdict(list)
    for mutant in mutants:
        by_task[mutant.tasks[0]].append(mutant)
    chosen = []
    for of_task in by_task.values():
        ranks: dict[str, int] = defaultdict(int)
        turns = []
        for mutant in sorted(of_task, key=lambda mutant: mutant.digest):
            common = mutant.operator not in RARE
            turns.append((ranks[mutant.operator], common, mutant.digest, mutant))
            ranks[mutant.operator] += 1
        kept = [mutant for *_, mutant in sorted(turns, key=lambda turn: turn[:3])[:per_task]]
        chosen += sorted(kept, key=lambda mutant: of_task.index(mutant))
    return chosen
