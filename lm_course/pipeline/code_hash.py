"""A hash of what a package *does*: of its syntax trees without docstrings, so that comments and
formatting do not count.

A step whose code changed is run again, whether a learner's stand-in took the place of a lesson or
somebody edited the reference. One mechanism for both: the files are looked up as the import system
would, stand-ins first.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from lm_core.stand_ins import stand_ins_folder
from lm_core.user_error import UserError
from lm_course.locations import PROJECT


def package_files(package: str) -> dict[str, Path]:
    """The files that `import package` would use, by name relative to the package: stand-ins before
    the reference.
    """
    reference = PROJECT / package
    assert reference.is_dir(), f"{package} is not a package of this project"
    folders = [reference]
    stand_ins = stand_ins_folder()
    if stand_ins is not None:
        folders.append(stand_ins / package)
    files = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder).as_posix()
            if folder == reference or name != "__init__.py":
                files[name] = path
    return files


def code_hash(name: str) -> str:
    """16 hex digits that change when the behaviour of some code may have changed.

    Args:
        name: a package ("training"), or one module of one ("lm_course.report.report_page").
    """
    package, _, module = name.partition(".")
    files = package_files(package)
    if module:
        file = f"{module.replace('.', '/')}.py"
        files = {file: files[file]}
    digest = hashlib.sha256()
    for file, path in sorted(files.items()):
        digest.update(f"{file}\0{_syntax_tree(path, path.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _syntax_tree(path: Path, modified: int) -> str:
    """The tree as text; `modified` is only there so that an edited file is read again."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{path}: line {error.lineno}: not valid Python: {error.msg}") from None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_docstring(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
