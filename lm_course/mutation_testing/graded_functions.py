"""The functions that learners write, helpers included, and the tasks that each belongs to.

They are the functions of the tasks, and the helpers that these reach: what the stubs lack, and
private functions that are not given. The call graph goes by names, across the graded modules. A
function that uses a function or class of a later task can only be finished then, so it belongs to
both tasks. So does that class, which learners may do without.

What this leaves out: functions that are reached in another way (getattr, operators of a class).
"""

import ast
import re
from collections import defaultdict

from lm_course.learning.stubs import Lesson, functions_of

Place = tuple[str, str]  # module, function
TaskTable = dict[str, dict[str, tuple[str, ...]]]


def tasks_of_functions(lessons: list[Lesson], order: list[str]) -> TaskTable:
    """Return module -> function -> the tasks that grade it, for all that learners write.

    Args:
        lessons: the graded modules.
        order: the ids of all tasks, as learners do them.
    """
    graph = CallGraph(lessons)
    found: TaskTable = {}
    for lesson in lessons:
        for name, task in lesson.tasks.items():
            tasks = [task.id, *graph.later_tasks((lesson.name, name), order, task.id)]
            tasks += graph.earlier_tasks(name.rpartition(".")[0], order, task.id)
            if _prepares(name, lesson):  # the methods show what it has prepared
                tasks += _tasks_of_class(name, lesson)
            found.setdefault(lesson.name, {})[name] = tuple(dict.fromkeys(tasks))
    reached: dict[Place, list[str]] = defaultdict(list)
    for lesson in lessons:
        # What a constructor reaches is used by the methods, so their tasks come first.
        for name in sorted(lesson.tasks, key=lambda name: _prepares(name, lesson)):
            of_class = _tasks_of_class(name, lesson) if _prepares(name, lesson) else []
            for helper in graph.reached((lesson.name, name)):
                reached[helper] += [*of_class, *found[lesson.name][name]]
    for (module, name), tasks in reached.items():
        found[module][name] = tuple(dict.fromkeys(tasks))
    return found


class CallGraph:
    """Which helpers and which tasks' functions a function calls, by their names."""

    def __init__(self, lessons: list[Lesson]) -> None:
        self.called: dict[Place, set[str]] = {}
        self.plain_names: dict[Place, set[str]] = {}
        self.named: dict[str, list[Place]] = defaultdict(list)  # helpers by what is looked up
        self.task_of: dict[Place, str] = {}
        self.tasks_named: dict[str, list[str]] = defaultdict(list)  # by function or class
        for lesson in lessons:
            for name, task in lesson.tasks.items():
                self.task_of[lesson.name, name] = task.id
                self.tasks_named[name.partition(".")[0]].append(task.id)
            for name, node in functions_of(lesson.tree):
                place = lesson.name, name
                nodes = list(ast.walk(node))
                names = {each.id for each in nodes if isinstance(each, ast.Name)}
                attributes = {each.attr for each in nodes if isinstance(each, ast.Attribute)}
                self.plain_names[place], self.called[place] = names, names | attributes
                if _is_helper(name, lesson):
                    owner, _, short = name.rpartition(".")
                    for looked_up in {short, owner} if owner in lesson.removed else {short}:
                        self.named[looked_up].append(place)

    def reached(self, place: Place) -> set[Place]:
        """Return the helpers that a function reaches, directly or through other helpers."""
        found: set[Place] = set()
        waiting = {place}
        while waiting:
            names = {name for each in waiting for name in self.called[each]}
            waiting = {helper for name in names for helper in self.named.get(name, ())} - found
            found |= waiting
        return found

    def later_tasks(self, place: Place, order: list[str], after: str) -> list[str]:
        """Return the tasks after this one whose functions or classes are used."""
        names = self._names_used(place)
        found = {task for name in names for task in self.tasks_named.get(name, ())}
        return [task for task in order[order.index(after) + 1 :] if task in found]

    def earlier_tasks(self, owner: str, order: list[str], before: str) -> list[str]:
        """Return the tasks before this one whose functions, outside a class, use it."""
        outside = [place for place in self.task_of if place[1].rpartition(".")[0] != owner]
        found = {self.task_of[place] for place in outside if owner in self._names_used(place)}
        return [task for task in order[: order.index(before)] if task in found]

    def _names_used(self, place: Place) -> set[str]:
        places = [place, *self.reached(place)]
        return {name for each in places for name in self.plain_names[each]}


def _is_helper(name: str, lesson: Lesson) -> bool:
    """Return True for what the stub lacks, and for private functions that are not given."""
    owner, _, short = name.rpartition(".")
    if name in lesson.removed or owner in lesson.removed:
        return True
    return re.match(r"_(?!_)", short) is not None and not {name, owner} & lesson.given


def _prepares(name: str, lesson: Lesson) -> bool:
    """Return True for a constructor, and for `forward`, which saves tensors for `backward`."""
    owner, _, short = name.rpartition(".")
    return short == "__init__" or (short == "forward" and f"{owner}.backward" in lesson.nodes)


def _tasks_of_class(name: str, lesson: Lesson) -> list[str]:
    """Return the tasks of the class that has this method, without that of the method."""
    owner = name.rpartition(".")[0]
    ids = [task.id for each, task in lesson.tasks.items() if each.rpartition(".")[0] == owner]
    return [task for task in ids if task != lesson.tasks[name].id]
