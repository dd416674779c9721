"""A module's text and the places in it that nodes of its syntax tree cover.

An edit replaces such a place, so the rest of the text stays as it is, comments included. What this
leaves out: which edits are made (mutation_operators).
"""

import ast
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

ATOMS = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant | ast.List | ast.Dict


@dataclass(frozen=True)
class Edit:
    """One change of a text.

    Attributes:
        operator: the kind of change.
        start: of the replaced text.
        end: one past it.
        replacement: the new text.
    """

    operator: str
    start: int
    end: int
    replacement: str


@dataclass(frozen=True)
class Source:
    """The text of a module."""

    text: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines(keepends=True)

    @cached_property
    def line_starts(self) -> list[int]:
        return [0, *accumulate(map(len, self.lines))]

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def start(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> int:
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None, "it was parsed"
        return self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, byte: int) -> int:
        """Return the character at which a place begins, which the tree gives in UTF-8 bytes."""
        before = self.lines[line - 1].encode()[:byte].decode()
        return self.line_starts[line - 1] + len(before)

    def of(self, node: ast.expr | ast.stmt) -> str:
        return self.text[self.start(node) : self.end(node)]

    def operand(self, node: ast.expr) -> str:
        """Return the text of an expression, in parentheses if it may need them elsewhere."""
        return self.of(node) if isinstance(node, ATOMS) else f"({self.of(node)})"

    def line_of(self, place: int) -> int:
        """Return the number of the line, from 0, that holds this character."""
        return self.text.count("\n", 0, place)

    def lines_around(self, edit: Edit) -> tuple[str, str]:
        """Return the lines that an edit changes, before and after, without their indentation."""
        first, last = self.line_of(edit.start), self.line_of(max(edit.start, edit.end - 1))
        start, end = self.line_starts[first], self.line_starts[last + 1]
        before = self.text[start:end]
        after = self.text[start : edit.start] + edit.replacement + self.text[edit.end : end]
        return before.strip(), after.strip()

    def edited(self, edit: Edit) -> str:
        return self.text[: edit.start] + edit.replacement + self.text[edit.end :]
