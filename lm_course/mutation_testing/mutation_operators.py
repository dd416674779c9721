"""Mutation operators: the small changes that are made to a function, one at a time.

Each operator takes a node of the syntax tree and yields edits of the text, so a change is one line
long and everything else stays as it was. cosmic-ray, mutmut and mutatest have operators too, but
they change trees, some lose the layout, each brings a runner of its own, and none drops a
statement, a copy or a cast.

What this leaves out: text that nobody grades (docstrings, annotations, messages of errors,
assertions, f-strings, `__repr__`), code that runs only under torch.compile, and changes of more
than one place.
"""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from lm_course.mutation_testing.source_text import Edit, Source

COMPARISONS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
}
COMPARISON_TEXTS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
NOT_NUMBERS = (
    ast.List | ast.Tuple | ast.Dict | ast.Set | ast.ListComp | ast.JoinedStr | ast.GeneratorExp
)
COPIES = {"clone", "detach", "contiguous", "copy"}
CASTS = {"int", "float", "bool", "str", "bytes", "list", "tuple", "dict", "set", "frozenset"}
CAST_METHODS = {"float", "double", "half", "bfloat16", "long", "int", "to", "astype", "type_as"}
TYPES = {
    "float64": "float32",
    "float32": "float64",
    "bfloat16": "float16",
    "float16": "bfloat16",
    "int64": "int32",
    "int32": "int64",
    "uint16": "uint32",
    "uint32": "uint16",
}
# Calls whose arguments may come in any order, or only in this one.
UNORDERED = {"max", "min", "maximum", "minimum", "gcd", "lcm", "isclose", "allclose"}
FIXED_ORDER = {"isinstance", "issubclass", "getattr", "setattr", "hasattr", "map", "filter", "cast"}
SILENT = {"__repr__", "__str__"}


def edits_of(function: ast.AST, source: Source) -> Iterator[Edit]:
    """Yield every edit of a function, operator by operator and place by place."""
    for node in graded_nodes(function):
        for name, operator in OPERATORS.items():
            for start, end, replacement in operator(node, source):
                if source.text[start:end] != replacement:
                    yield Edit(name, start, end, replacement)


def graded_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, without those that no check can see or that nobody grades."""
    below: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        defaults = [each for each in [*node.args.defaults, *node.args.kw_defaults] if each]
        below = [] if node.name in SILENT else [*defaults, *node.body]
    elif isinstance(node, ast.AnnAssign):
        below = [part for part in (node.target, node.value) if part is not None]
    elif isinstance(node, ast.If):
        below = [node.test, *([] if raises(node.body) else node.body), *node.orelse]
    elif isinstance(node, ast.ExceptHandler) and raises(node.body):
        below = []
    elif isinstance(node, ast.Call) and called(node) in {"isinstance", "issubclass"}:
        below = [node.args[0]]
    if isinstance(node, ast.If) and _is_for_compiler(node.test):
        below = node.orelse
    else:
        yield node
    for child in below:
        if not isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr) and not is_text(child):
            yield from graded_nodes(child)


def raises(body: list[ast.stmt]) -> bool:
    """Return True for statements that end in an error: those before it make its message."""
    return isinstance(body[-1], ast.Raise)


def _is_for_compiler(test: ast.expr) -> bool:
    return isinstance(test, ast.Call) and called(test) == "is_compiling"


def is_text(node: ast.AST) -> bool:
    """Return True for a docstring, and for any other constant that is a whole statement."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def called(node: ast.Call) -> str:
    """Return the last part of the name of the called function; empty if it has none."""
    function = node.func
    return getattr(function, "id", "") or getattr(function, "attr", "")


Changes = Iterator[tuple[int, int, str]]


def _sign(source: Source, left: ast.AST, right: ast.AST, old: str, new: str) -> Changes:
    """Replace a sign between two expressions. A comment may stand there, too: then leave it."""
    start, end = source.end(left), source.start(right)  # type: ignore[arg-type]
    between = source.text[start:end]
    pattern = re.escape(old).replace(r"\ ", r"\s+")
    found = None if "#" in between else re.search(pattern, between)
    if found:
        yield start + found.start(), start + found.end(), new


def comparison(node: ast.AST, source: Source) -> Changes:
    """Replace `<` by `<=`, `==` by `!=`, and so on."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, sign, right in zip(sides, node.ops, sides[1:], strict=False):
            old = COMPARISON_TEXTS[type(sign)]
            yield from _sign(source, left, right, old, COMPARISONS[old])


def arithmetic(node: ast.AST, source: Source) -> Changes:
    """Replace `+` by `-`, `*` by `/`, and so on; drop a minus. Not between texts or lists: any
    check would catch that.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        old, new = ARITHMETIC[type(node.op)]
        if not (_no_number(node.left) or _no_number(node.right)):
            yield from _sign(source, node.left, node.right, old, new)
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        old, new = ARITHMETIC[type(node.op)]
        if not _no_number(node.value):
            yield from _sign(source, node.target, node.value, f"{old}=", f"{new}=")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield source.start(node), source.start(node.operand), ""


def _no_number(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return text or isinstance(node, NOT_NUMBERS)


def constant(node: ast.AST, source: Source) -> Changes:
    """Replace a number by the next one and by 0, text by empty text, True by False."""
    if not isinstance(node, ast.Constant) or _is_default(node, source):
        return
    in_slice = isinstance(source.parents.get(node), ast.Slice)
    for value in _other_values(node.value):
        if not (in_slice and value == 0):  # as if the bound were dropped
            yield source.start(node), source.end(node), repr(value)


def _other_values(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 0] if value else [1]
    if isinstance(value, float):
        return [2 * value, 0.0] if value else [1.0]
    if isinstance(value, str):
        return ["" if value else "x"]
    if isinstance(value, bytes):
        return [b"" if value else b"x"]
    return []


def condition(node: ast.AST, source: Source) -> Changes:
    """Negate a condition, or put True (or, before an `else`, False) in its place."""
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield from _negated(test, source)
            yield source.start(test), source.end(test), "True"
    elif isinstance(node, ast.IfExp):
        yield from _negated(node.test, source)
        for value in ("True", "False"):
            yield source.start(node.test), source.end(node.test), value
    elif isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        yield from _negated(node.test, source)
    elif isinstance(node, ast.If) and not raises(node.body):
        yield from _negated(node.test, source)
        for value in ["True", "False"] if node.orelse else ["True"]:
            yield source.start(node.test), source.end(node.test), value


def _negated(test: ast.expr, source: Source) -> Changes:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield source.start(test), source.start(test.operand), ""
        return
    opposite = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
    if not (isinstance(test, ast.Compare) and all(isinstance(op, opposite) for op in test.ops)):
        yield source.start(test), source.end(test), f"not ({source.of(test)})"


def boolean(node: ast.AST, source: Source) -> Changes:
    """Swap `and` and `or`; drop a part of either."""
    if not isinstance(node, ast.BoolOp):
        return
    old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in pairwise(node.values):
        yield from _sign(source, left, right, rf"{old}", new)
        if "#" not in source.text[source.end(left) : source.start(right)]:
            yield source.end(left), source.end(right), ""
    first, second = node.values[:2]
    yield source.start(first), source.start(second), ""


def statement(node: ast.AST, source: Source) -> Changes:
    """Drop a statement, unless a name would then be unknown, which any check would catch."""
    dropped = isinstance(node, ast.AugAssign) or (isinstance(node, ast.If) and not node.orelse)
    if isinstance(node, ast.Expr):
        dropped = not is_text(node)
    elif isinstance(node, ast.Assign):
        dropped = all(_is_known_without(target, node, source) for target in node.targets)
    if dropped and not (isinstance(node, ast.If) and _is_elif(node, source)):
        yield source.start(node), source.end(node), "pass"  # type: ignore[arg-type]


def _is_elif(node: ast.If, source: Source) -> bool:
    return source.text.startswith("elif", source.start(node))


def _is_known_without(target: ast.expr, assignment: ast.Assign, source: Source) -> bool:
    """Return True for what is not a name of the function, or a name that is bound earlier."""
    if isinstance(target, ast.Subscript | ast.Attribute):
        return True
    if not isinstance(target, ast.Name):
        return False
    function: ast.AST = assignment
    while not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
        function = source.parents[function]
    bound = [
        node
        for node in ast.walk(function)
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == target.id)
        or (isinstance(node, ast.arg) and node.arg == target.id)
    ]
    return any(source.start(node) < source.start(target) for node in bound)


def arguments(node: ast.AST, source: Source) -> Changes:
    """Swap two neighboring arguments; drop one that is given by its name."""
    if not isinstance(node, ast.Call):
        return
    if called(node) not in UNORDERED | FIXED_ORDER:
        for left, right in pairwise(node.args):
            yield from _swapped(left, right, source)
    for number, keyword in enumerate(node.keywords):
        before = [*node.args, *node.keywords[:number]]
        if keyword.arg is not None and before:
            yield source.end(before[-1]), source.end(keyword), ""


def _swapped(left: ast.expr, right: ast.expr, source: Source) -> Changes:
    if not any(isinstance(side, ast.Starred | ast.GeneratorExp) for side in (left, right)):
        between = source.text[source.end(left) : source.start(right)]
        swapped = f"{source.of(right)}{between}{source.of(left)}"
        yield source.start(left), source.end(right), swapped


def copy(node: ast.AST, source: Source) -> Changes:
    """Drop `.clone()`, `.detach()`, `.contiguous()` or `.copy()`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr in COPIES and not node.args and not node.keywords:
        yield source.end(node.func.value), source.end(node), ""


def cast(node: ast.AST, source: Source) -> Changes:
    """Drop a cast, or replace the type by another one."""
    if isinstance(node, ast.Attribute) and node.attr in TYPES:
        yield source.end(node) - len(node.attr), source.end(node), TYPES[node.attr]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in CAST_METHODS:
            yield source.end(node.func.value), source.end(node), ""
    elif isinstance(node, ast.Call) and called(node) in CASTS:
        for argument in node.args if len(node.args) == 1 else ():
            yield source.start(node), source.end(node), source.operand(argument)


def default(node: ast.AST, source: Source) -> Changes:
    """Replace the default value of a parameter."""
    if isinstance(node, ast.Constant) and _is_default(node, source):
        for value in _other_values(node.value):
            yield source.start(node), source.end(node), repr(value)


def _is_default(node: ast.AST, source: Source) -> bool:
    return isinstance(source.parents.get(node), ast.arguments)


def order(node: ast.AST, source: Source) -> Changes:
    """Drop `sorted` or `reversed`, or swap `max` and `min`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return
    name = node.func.id
    if name in {"max", "min"}:
        other = "min" if name == "max" else "max"
        yield source.start(node.func), source.end(node.func), other
    elif name in {"sorted", "reversed"} and node.args:
        text = source.of(node.args[0])
        replacement = f"list({text})" if name == "sorted" else source.operand(node.args[0])
        yield source.start(node), source.end(node), replacement


def slice_bound(node: ast.AST, source: Source) -> Changes:
    """Drop a bound of a slice, or add 1 to it."""
    if not isinstance(node, ast.Slice):
        return
    for bound in (node.lower, node.upper, node.step):
        if bound is None:
            continue
        if not (isinstance(bound, ast.Constant) and bound.value == 0):
            yield source.start(bound), source.end(bound), ""
        if bound is not node.step and not isinstance(bound, ast.Constant):
            yield source.start(bound), source.end(bound), f"{source.operand(bound)} + 1"


def loop_end(node: ast.AST, source: Source) -> Changes:
    """Swap `break` and `continue`."""
    if isinstance(node, ast.Break | ast.Continue):
        other = "continue" if isinstance(node, ast.Break) else "break"
        yield source.start(node), source.end(node), other


def result(node: ast.AST, source: Source) -> Changes:
    """Swap two neighboring parts of the result."""
    if isinstance(node, ast.Return | ast.Yield) and isinstance(node.value, ast.Tuple):
        parts = node.value.elts
        for left, right in pairwise(parts):
            yield from _swapped(left, right, source)


OPERATORS: dict[str, Callable[[ast.AST, Source], Changes]] = {
    "comparison": comparison,
    "arithmetic": arithmetic,
    "constant": constant,
    "condition": condition,
    "boolean": boolean,
    "statement": statement,
    "arguments": arguments,
    "copy": copy,
    "cast": cast,
    "default": default,
    "order": order,
    "slice": slice_bound,
    "loop": loop_end,
    "result": result,
}
