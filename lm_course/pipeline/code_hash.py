"""A hash of what a step's code *does*. It covers the syntax trees of all modules that the step
imports, directly or indirectly, without docstrings; comments and formatting do not count.

A step whose code has changed runs again, whether a learner's stand-in replaced a lesson or somebody
edited the reference. Both cases work in the same way: files are looked up as the import system
would, stand-ins first. A change in a module that the step does not import has no effect.

What this leaves out: lm_core, whose file formats carry versions of their own; the pipeline itself;
and modules that are imported by a name computed at run time.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from lm_core.stand_ins import stand_ins_folder
from lm_core.user_error import UserError
from lm_course.locations import PROJECT

LEFT_OUT = ("lm_core", "lm_course.pipeline", "lm_course.locations", "lm_course.error_lines")


def code_hashes(module: str) -> dict[str, str]:
    """Return package -> 16 hex digits that change when the behaviour of its code may have changed.

    Args:
        module: where to start, such as "lm_course.model_steps.sft".
    """
    digests: dict[str, hashlib._Hash] = {}
    for name, path in sorted(reachable_modules(module).items()):
        tree = _module(path, path.stat().st_mtime_ns).tree
        digest = digests.setdefault(name.partition(".")[0], hashlib.sha256())
        digest.update(f"{name}\0{tree}\n".encode())
    return {package: digest.hexdigest()[:16] for package, digest in digests.items()}


def reachable_modules(module: str) -> dict[str, Path]:
    """Return dotted name -> file, of `module` and all that it imports, directly or indirectly."""
    found: dict[str, Path] = {}
    looked_up: set[str] = set()  # most imported names are not modules of ours
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in looked_up or _is_left_out(name):
            continue
        looked_up.add(name)
        path = module_file(name)
        if path is not None:
            found[name] = path
            waiting += _module(path, path.stat().st_mtime_ns).imports
            waiting.append(name.rpartition(".")[0])  # importing a module runs its package first
    return found


def _is_left_out(name: str) -> bool:
    return not name or any(name == left or name.startswith(f"{left}.") for left in LEFT_OUT)


def module_file(name: str) -> Path | None:
    """Return the file that `import name` would run, a stand-in before the reference; None if `name`
    is not a module of this project.
    """
    package, _, rest = name.partition(".")
    folder = stand_ins_folder()
    stand_ins = [folder / package] if folder is not None and rest else []
    for place in (*stand_ins, PROJECT / package):
        inside = place.joinpath(*rest.split(".")) if rest else place
        for path in (inside.with_suffix(".py"), inside / "__init__.py"):
            if path.is_file() and path.parent != PROJECT:
                return path
    return None


def syntax_tree(path: Path) -> ast.Module:
    """Return the tree of a Python file; raise UserError, with file and line, if it is not valid."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        place = f"{path}: line {error.lineno}" if error.lineno else f"{path}"
        raise UserError(f"{place}: not valid Python: {error.msg}") from None
    except ValueError as error:  # not UTF-8, or a byte 0
        raise UserError(f"{path}: not valid Python: {error}") from None


class _Module:
    """The imports of a file, and its syntax tree as text."""

    def __init__(self, path: Path) -> None:
        tree = syntax_tree(path)
        nodes = list(ast.walk(tree))
        self.imports = sorted(set(_imported(nodes)))
        for node in nodes:
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                node.body = body[1:]  # type: ignore[attr-defined]
        self.tree = ast.dump(tree)


@cache
def _module(path: Path, modified: int) -> _Module:
    """Return the cached module; `modified` makes sure that an edited file is read again."""
    return _Module(path)


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield every name that may be a module, also those imported inside functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_docstring(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
