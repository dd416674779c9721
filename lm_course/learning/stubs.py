"""Stubs: the reference without the bodies of the tasks' functions.

Signatures, docstrings and comments stay unchanged; a task's body becomes
`raise NotImplementedError("a1.3: write merge_pair")`. A private helper, a class or a constant that
only such bodies use would give the solution away, so it is removed too, with its comments and its
imports. It stays if assignment.toml lists it under `given`, because writing it would teach nothing.
Everything else in the module is given code. Nothing is copied by hand, so stubs cannot drift from
the reference.

The text is cut at the lines that the syntax tree names. What this leaves out: names that are looked
up by strings (getattr); this file does not see such a use, so the definition may be removed.
"""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment, Task
from lm_course.locations import ASSIGNMENTS, PROJECT, project_packages, shipped

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass
class Lesson:
    """One graded module while its stub is cut."""

    name: str
    source: str
    tasks: Mapping[str, Task]  # "function" or "Class.method" -> its task
    tree: ast.Module = field(init=False)
    nodes: dict[str, Definition] = field(init=False)  # by name; methods as "Class.method"
    imported: dict[str, str] = field(default_factory=dict)  # local name -> "lesson.name"
    removed: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)  # names that stay, whatever uses them

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source)
        self.nodes = dict(_definitions(self.tree))
        for name in self.given:
            if name not in self.nodes or name in self.tasks:
                raise UserError(f"given: {self.name}.py has no {name}, or it is a task's function")
        for name, task in self.tasks.items():
            node = self.nodes.get(name)
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                raise UserError(f"{task.id}: {self.name}.py has no function {name}")

    def blanked_statements(self, name: str) -> list[ast.stmt]:
        node = self.nodes[name]
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), f"{name}: not a function"
        return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def functions_of(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Yield the functions and methods of a module, with their names."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function):
                    yield f"{node.name}.{inner.name}", inner


def is_stub(function: Function, task: str) -> bool:
    """Return whether a function is as `lm start` wrote it for this task."""
    documented = ast.get_docstring(function, clean=False) is not None
    match function.body[documented:]:
        case [ast.Raise(exc=ast.Call(func=ast.Name("NotImplementedError"), args=[argument]))]:
            text = argument.value if isinstance(argument, ast.Constant) else None
            return isinstance(text, str) and text.startswith(f"{task}: write ")
    return False


def cut_stubs(assignment: Assignment, root: Path = PROJECT) -> dict[str, str]:
    """Return module -> the text of its stub, for every module that has tasks.

    Raises:
        ValueError: the assignment names a module or a function that the reference lacks.
    """
    lessons = lessons_of(assignment, root)
    return {lesson.name: _stub_text(lesson, lessons, assignment) for lesson in lessons}


def lessons_of(assignment: Assignment, root: Path = PROJECT) -> list[Lesson]:
    """Return the graded modules, each with the names that its stub lacks in `removed`.

    Raises:
        ValueError: the assignment names a module or a function that the reference lacks.
    """
    lessons = [_lesson(assignment, module, root) for module in assignment.modules]
    _sweep(lessons, assignment.package, _names_used_elsewhere(assignment, root))
    return lessons


def _lesson(assignment: Assignment, module: str, root: Path) -> Lesson:
    path = root / assignment.package / f"{module}.py"
    if not path.is_file():
        raise UserError(f"{assignment.id}: {path} does not exist")
    tasks = [task for task in assignment.tasks if task.module == module]
    task_of = {name: task for task in tasks for name in task.functions}
    given = {name.partition(".")[2] for name in assignment.given if name.startswith(f"{module}.")}
    return Lesson(module, path.read_text(encoding="utf-8"), task_of, given=given)


# Definitions to remove: those that only blanked bodies reach.


def _sweep(lessons: list[Lesson], package: str, elsewhere: set[str]) -> None:
    """Mark definitions as removed: those that blanked bodies reach and other code does not."""
    modules = {f"{package}.{lesson.name}": lesson for lesson in lessons}
    blanked = {
        statement: lesson
        for lesson in lessons
        for task_name in lesson.tasks
        for statement in lesson.blanked_statements(task_name)
    }
    may_go = {
        node: (lesson, name)
        for lesson in lessons
        for name, node in lesson.nodes.items()
        if not _is_interface(name, lesson)
    }
    # Importing a name from another lesson is not a use of it: the import is removed with the name.
    imports: set[ast.AST] = set()
    for lesson in lessons:
        for node in ast.walk(lesson.tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                source = modules[node.module]
                imports.add(node)
                for alias in node.names:
                    lesson.imported[alias.asname or alias.name] = f"{source.name}.{alias.name}"
    asked = {key for body, lesson in blanked.items() for key in _uses(lesson, body, imports)}
    may_go = {node: may_go[node] for node in _reached(asked, may_go, imports)}
    skipped = {*blanked, *imports}
    given = {key for each in lessons for key in _uses(each, each.tree, skipped | set(may_go))}
    stay = _reached(given | {f"*.{name}" for name in elsewhere}, may_go, skipped)
    for node, (lesson, name) in may_go.items():
        if node not in stay:
            lesson.removed.add(name)


def _is_interface(name: str, lesson: Lesson) -> bool:
    """Return True for a task, a class that holds one, a given name, and methods that users of a
    class may call.
    """
    owner, _, short = name.rpartition(".")
    if name in lesson.given or owner in lesson.given:
        return True
    if name in lesson.tasks or any(task.startswith(f"{name}.") for task in lesson.tasks):
        return True
    return bool(owner) and (not short.startswith("_") or short.endswith("__"))


def _reached(
    keys: set[str], definitions: Mapping[Definition, tuple[Lesson, str]], skipped: set[ast.AST]
) -> set[Definition]:
    """Return the definitions that the uses `keys` reach, directly or through each other."""
    keys, reached = set(keys), set()
    while True:
        found = set()
        for node, (lesson, name) in definitions.items():
            short = name.rpartition(".")[2]
            if node not in reached and keys & {f"{lesson.name}.{short}", f"*.{short}"}:
                found.add(node)
        if not found:
            return reached
        reached |= found
        for node in found:  # a method is a separate definition
            lesson = definitions[node][0]
            keys |= set(_uses(lesson, node, skipped | (set(definitions) - {node})))


def _uses(lesson: Lesson, tree: ast.AST, skipped: Collection[ast.AST]) -> Iterator[str]:
    """Yield what a part of a lesson uses: "module.name" if the module is known, else "*.name"."""
    for name, is_attribute in _names_in(tree, skipped):
        if is_attribute:
            yield f"*.{name}"
        else:
            yield lesson.imported.get(name, f"{lesson.name}.{name}")


def _names_in(tree: ast.AST, skipped: Collection[ast.AST] = ()) -> Iterator[tuple[str, bool]]:
    """Yield (name, whether it is an attribute) that a tree looks up, without its skipped parts."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if node not in skipped:
            yield from _own_names(node)
            waiting += ast.iter_child_nodes(node)


def _own_names(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield the names that this node itself looks up, also those in a string annotation."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id, False
    elif isinstance(node, ast.Attribute):
        yield node.attr, True
    elif isinstance(node, ast.ImportFrom):
        yield from ((alias.name, False) for alias in node.names)
    annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
    for part in ast.walk(annotation) if isinstance(annotation, ast.AST) else ():
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield from ((name, False) for name in re.findall(r"\w+", part.value))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Yield the functions, classes, methods and constants of a module, with their names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, node
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}", inner
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            if isinstance(node.targets[0], ast.Name):
                yield node.targets[0].id, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node


def _names_used_elsewhere(assignment: Assignment, root: Path) -> set[str]:
    """Return every name in the suite, and in project files that mention one of the lessons: they
    also run with the stub.
    """
    lessons = {root / assignment.package / f"{module}.py" for module in assignment.modules}
    mention = re.compile(rf"\b{assignment.package}\b.*\b({'|'.join(assignment.modules)})\b")
    used: set[str] = set()
    suites = shipped(ASSIGNMENTS, root)
    for path in sorted((suites / assignment.id).glob("*.py")):
        used |= _names_from_outside(ast.parse(path.read_text(encoding="utf-8")))
    for package in project_packages(root):
        for path in sorted(package.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            is_suite = path.is_relative_to(suites)
            if not is_suite and path not in lessons and mention.search(text):
                used |= _names_from_outside(ast.parse(text))
    return used


def _names_from_outside(tree: ast.Module) -> set[str]:
    """Return the names that a file looks up, without those of its own functions."""
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name for name, is_attribute in _names_in(tree) if is_attribute or name not in own}


# The cut itself, from the last line to the first, so that line numbers stay valid.


def _stub_text(lesson: Lesson, lessons: list[Lesson], assignment: Assignment) -> str:
    lines = lesson.source.splitlines()
    cuts: dict[int, tuple[int, list[str]]] = {}  # first line (from 0) -> (one past the last, new)
    classes = [name for name in lesson.removed if "." not in name]
    for name in lesson.removed:
        if name.rpartition(".")[0] not in classes:
            start, end = _lines_of_definition(lesson.nodes[name], lines)
            cuts[start] = (end, [])
    for name, task in lesson.tasks.items():
        start, end, new = _cut_of_body(name, task, lesson, lines, assignment)
        cuts[start] = (end, new)
    for node in lesson.tree.body:
        new = _pruned_import(node, lessons, assignment.package)
        if new is not None:
            cuts[node.lineno - 1] = (_end(node), new)
    for start in sorted(cuts, reverse=True):
        end, new = cuts[start]
        lines[start:end] = new
    # If a cut broke the syntax, it is our mistake; better to fail here than at a learner's.
    return _with_blank_lines("\n".join(lines).rstrip("\n") + "\n")


def _with_blank_lines(text: str) -> str:
    """Restore two blank lines after every function and class of the module, and one after its
    imports, also after a cut.
    """
    lines = text.splitlines()
    body, imports = ast.parse(text).body, ast.Import | ast.ImportFrom
    for node, following in reversed(list(pairwise(body))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            end = _comments_after(node, lines)
            gap = lines[end : _first_line(following)]
            blank = next((n for n, line in enumerate(gap) if line.strip()), len(gap))
            lines[end:end] = [""] * (2 - blank)
        elif isinstance(node, imports) and not isinstance(following, imports):
            lines[_end(node) : _end(node)] = [""] * bool(lines[_end(node)].strip())
    return "\n".join(lines) + "\n"


def _end(node: ast.AST) -> int:
    end = getattr(node, "end_lineno", None)
    assert end is not None, "ast.parse gives every statement its last line"
    return end


def _first_line(node: ast.AST) -> int:
    """Return the first line, counted from 0, including decorators."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)]) - 1


def _lines_of_definition(node: Definition, lines: list[str]) -> tuple[int, int]:
    """Return the lines of a definition, with the comment and the blank lines above it."""
    start, end = _first_line(node), _comments_after(node, lines)
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    while start and not lines[start - 1].strip():
        start -= 1
    return start, end


def _comments_after(node: ast.stmt, lines: list[str]) -> int:
    """Return one past the last line of a definition, including comments at the end of its body."""
    end = last = _end(node)
    while end < len(lines):
        text = lines[end].lstrip()
        indent = len(lines[end]) - len(text)
        if text and not (text.startswith("#") and indent > node.col_offset):
            break
        end += 1
        last = end if text else last
    return last


def _cut_of_body(
    name: str, task: Task, lesson: Lesson, lines: list[str], assignment: Assignment
) -> tuple[int, int, list[str]]:
    """Return (first line, one past the last, replacement lines) for the body of one function."""
    node = lesson.nodes[name]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), f"{name}: not a function"
    statements = lesson.blanked_statements(name)
    error = f'raise NotImplementedError("{task.id}: write {name}")'
    points = "1 point" if task.points == 1 else f"{task.points} points"
    comment = f"# {points}: {ASSIGNMENTS}/{assignment.id}/README.md#{task.section}"
    indent = " " * (node.col_offset + 4)
    end = _comments_after(node, lines)
    if not statements:  # nothing but a docstring
        return end, end, [f"{indent}{comment}", f"{indent}{error}"]
    start = _first_line(statements[0])
    docstring_end = _end(node.body[0]) if statements[0] is not node.body[0] else 0
    before = lines[start].encode()[: statements[0].col_offset].decode()
    if before.strip():  # def f(x): return x
        return start, end, [f"{before}{error}"]
    while start > docstring_end and _is_comment_or_blank(lines[start - 1]):
        start -= 1
    return start, end, [f"{indent}{comment}", f"{indent}{error}"]


def _is_comment_or_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _pruned_import(node: ast.stmt, lessons: list[Lesson], package: str) -> list[str] | None:
    """Return the lines of an import without the removed names; None if all names stay."""
    if not isinstance(node, ast.ImportFrom):
        return None
    source = {f"{package}.{lesson.name}": lesson for lesson in lessons}.get(node.module or "")
    if source is None:
        return None
    kept = [alias for alias in node.names if alias.name not in source.removed]
    if len(kept) == len(node.names):
        return None
    names = [f"{a.name} as {a.asname}" if a.asname else a.name for a in kept]
    if not names:
        return []
    line = f"from {node.module} import {', '.join(names)}"
    if len(line) <= 100:
        return [line]
    return [f"from {node.module} import (", *(f"    {name}," for name in names), ")"]
