"""The functions that learners write, and the tasks that each belongs to."""

from lm_course.learning.assignment_file import load_assignment
from lm_course.learning.stubs import lessons_of
from lm_course.mutation_testing.graded_functions import tasks_of_functions

WITH_A_CLASS = '''"""A class with a cache, functions that share a helper, and given code."""


class Counting:
    def __init__(self, text):
        self.text = text
        self.cache = _Cache(self)

    def letters(self):
        return self.cache["letters"] + _shared(self.text)

    def _count(self, name):
        return self.text.count(name)

    def given_method(self):
        return 1


class _Cache(dict):
    def __init__(self, counting: Counting):
        self.counting = counting

    def __missing__(self, name):
        return self.counting._count(name)


def count_letters(text):
    return _shared(text)


def largest(counts):
    return _private(counts)


def _shared(text):
    return _below(text)


def _below(text):
    return text


def _private(counts):
    return max(counts)


def _kept(counts):
    return counts


def _never_called():
    return 1


def given():
    return 2
'''
TASKS = {
    'functions = ["largest"]': 'functions = ["largest", "Counting.letters"]',
    'functions = ["count_letters"]': 'functions = ["count_letters", "Counting.__init__"]',
}


def tasks_of(toy_course) -> dict[str, tuple[str, ...]]:
    assignment = load_assignment("t1", toy_course.root)
    order = [task.id for task in assignment.tasks]
    return tasks_of_functions(lessons_of(assignment, toy_course.root), order)["counting"]


def test_helpers_belong_to_the_tasks_that_reach_them(toy_course) -> None:
    text = toy_course.ASSIGNMENT
    for old, new in TASKS.items():
        assert old in text
        text = text.replace(old, new)
    toy_course.write("assignments/t1/assignment.toml", text)
    toy_course.write("toy_stage/counting.py", WITH_A_CLASS)
    # What the constructor reaches belongs to the tasks of the methods first.
    assert tasks_of(toy_course) == {
        "Counting.__init__": ("t1.2", "t1.3"),
        "Counting.letters": ("t1.3",),
        "Counting._count": ("t1.3", "t1.2"),
        "_Cache.__init__": ("t1.3", "t1.2"),
        "_Cache.__missing__": ("t1.3", "t1.2"),
        "count_letters": ("t1.2",),
        "largest": ("t1.3",),
        "_shared": ("t1.2", "t1.3"),
        "_below": ("t1.2", "t1.3"),
        "_private": ("t1.3",),
    }


def test_what_calls_a_later_task_belongs_to_both(toy_course) -> None:
    text = toy_course.REFERENCE.replace("return Counter(text)", "return Counter(largest(text))")
    toy_course.write("toy_stage/counting.py", text)
    assert tasks_of(toy_course) == {
        "count_letters": ("t1.2", "t1.3"),
        "largest": ("t1.3",),
        "_counter": ("t1.2", "t1.3"),
    }
    # A class that an earlier task uses is graded by that task, too.
    text = WITH_A_CLASS.replace("return _shared(text)", "return Counting(text)")
    toy_course.write("toy_stage/counting.py", text)
    course = toy_course.ASSIGNMENT.replace('["largest"]', '["largest", "Counting.letters"]')
    toy_course.write("assignments/t1/assignment.toml", course)
    assert tasks_of(toy_course)["count_letters"] == ("t1.2", "t1.3")
    assert tasks_of(toy_course)["Counting.letters"] == ("t1.3", "t1.2")
    assert tasks_of(toy_course)["largest"] == ("t1.3",)


def test_what_calls_an_earlier_task_belongs_to_its_own(toy_course) -> None:
    earlier = toy_course.REFERENCE.replace("return max(", "count_letters(counts); return max(")
    toy_course.write("toy_stage/counting.py", earlier)
    assert tasks_of(toy_course)["largest"] == ("t1.3",)


def test_a_class_that_a_later_task_uses_belongs_to_its_own(toy_course) -> None:
    text = WITH_A_CLASS.replace("return _private(counts)", "return Counting(counts)")
    toy_course.write("toy_stage/counting.py", text)
    course = toy_course.ASSIGNMENT.replace('["count_letters"]', '["Counting.letters"]')
    toy_course.write("assignments/t1/assignment.toml", course)
    assert tasks_of(toy_course)["Counting.letters"] == ("t1.2",)


def test_forward_is_graded_with_backward(toy_course) -> None:
    methods = "class F:\n    def forward(self): pass\n    def backward(self): pass\n"
    text = toy_course.REFERENCE.replace("def count_letters", f"{methods}\n\ndef count_letters")
    toy_course.write("toy_stage/counting.py", text)
    course = toy_course.ASSIGNMENT.replace('["largest"]', '["largest", "F.backward"]')
    course = course.replace('["count_letters"]', '["count_letters", "F.forward"]')
    toy_course.write("assignments/t1/assignment.toml", course)
    assert tasks_of(toy_course)["F.forward"] == ("t1.2", "t1.3")
    assert tasks_of(toy_course)["F.backward"] == ("t1.3",)


def test_given_helpers_are_left_out(toy_course) -> None:
    assert "_counter" in tasks_of(toy_course)
    given = toy_course.ASSIGNMENT.replace("[[task]]", 'given = ["counting._counter"]\n[[task]]', 1)
    toy_course.write("assignments/t1/assignment.toml", given)
    assert "_counter" not in tasks_of(toy_course)
