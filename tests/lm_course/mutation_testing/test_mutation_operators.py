"""The edits that each operator makes of a small function, and the code that none touches."""

import ast

import pytest

from lm_course.mutation_testing.mutation_operators import OPERATORS, edits_of
from lm_course.mutation_testing.source_text import Source


def changed(text: str, operator: str) -> list[str]:
    """The changed line of each edit that this operator makes of a function with this body."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return changes_of(f"def function(x, y):\n{lines}", operator)


def changes_of(text: str, operator: str = "") -> list[str]:
    source = Source(text)
    edits = [e for e in edits_of(source.tree.body[0], source) if operator in ("", e.operator)]
    for edit in edits:
        ast.parse(source.edited(edit))
    return [source.lines_around(edit)[1] for edit in edits]


CASES = [
    ("comparison", "return x < y", ["return x <= y"]),
    ("comparison", "return x >= y", ["return x > y"]),
    ("comparison", "return x != y", ["return x == y"]),
    ("comparison", "return x is not y", ["return x is y"]),
    ("comparison", "return x not  in y", ["return x in y"]),
    ("comparison", "return (x) == (y)", ["return (x) != (y)"]),
    ("comparison", "return 0 < x < y", ["return 0 <= x < y", "return 0 < x <= y"]),
    ("arithmetic", "return x + y", ["return x - y"]),
    ("arithmetic", "return x - -y", ["return x + -y", "return x - y"]),
    ("arithmetic", "return (x) * (y)", ["return (x) / (y)"]),
    ("arithmetic", "return x // y", ["return x / y"]),
    ("arithmetic", "return x ** y", ["return x * y"]),
    ("arithmetic", "return x << y", ["return x >> y"]),
    ("arithmetic", "x *= y", ["x /= y"]),
    ("arithmetic", "x //= y", ["x /= y"]),
    ("arithmetic", 'return x + "s"', []),
    ("arithmetic", "x += [y]", []),
    ("constant", "return 3", ["return 4", "return 0"]),
    ("constant", "return 0", ["return 1"]),
    ("constant", "return 0.5", ["return 1.0", "return 0.0"]),
    ("constant", "return 'é', 3", ["return '', 3", "return 'é', 4", "return 'é', 0"]),
    ("constant", "return ''", ["return 'x'"]),
    ("constant", "return b'a'", ["return b''"]),
    ("constant", "return True", ["return False"]),
    ("constant", "return None", []),
    ("constant", "return x[1:]", ["return x[2:]"]),
    ("condition", "while x < y: x += 1", ["while not (x < y): x += 1"]),
    ("condition", "while True: x()", []),
    ("condition", "if x == y: x()", ["if True: x()"]),
    ("condition", "if not x: x()", ["if x: x()", "if True: x()"]),
    ("condition", "if x: raise y", []),
    (
        *("condition", "return [x for x in y if x]"),
        ["return [x for x in y if not (x)]", "return [x for x in y if True]"],
    ),
    (
        *("condition", "return x if y else 3"),
        ["return x if not (y) else 3", "return x if True else 3", "return x if False else 3"],
    ),
    ("boolean", "return x and y", ["return x or y", "return x", "return y"]),
    ("statement", "x.append(y)", ["pass"]),
    ("statement", "x[0] = y", ["pass"]),
    ("statement", "x.y = y", ["pass"]),
    ("statement", "x = y", ["pass"]),
    ("statement", "z = y", []),
    ("statement", "x += y", ["pass"]),
    ("statement", "if x: return y", ["pass"]),
    ("arguments", "return x(1, y)", ["return x(y, 1)"]),
    ("arguments", "return x(y, y)", []),
    ("arguments", "return x(*y, 1)", []),
    ("arguments", "return max(x, y)", []),
    ("arguments", "return isinstance(x, y)", []),
    ("arguments", "return x(y, dim=-1)", ["return x(y)"]),
    ("copy", "return x.clone()", ["return x"]),
    ("copy", "return x.detach().contiguous()", ["return x.detach()", "return x.contiguous()"]),
    ("copy", "return y.copy(x)", []),
    ("cast", "return int(x + y) * 2", ["return (x + y) * 2"]),
    ("cast", "return list(x)", ["return x"]),
    ("cast", "return x.to(y)", ["return x"]),
    ("cast", "return torch.float32", ["return torch.float64"]),
    ("order", "return sorted(x, key=y)", ["return list(x)"]),
    ("order", "return [*reversed(x)]", ["return [*x]"]),
    ("order", "return max(x)", ["return min(x)"]),
    ("slice", "return x[1:y]", ["return x[:y]", "return x[1:]", "return x[1:y + 1]"]),
    ("slice", "return x[0::2]", ["return x[0::]"]),
    ("loop", "for x in y: break", ["for x in y: continue"]),
    ("loop", "for x in y: continue", ["for x in y: break"]),
    ("result", "return x, y", ["return y, x"]),
    ("result", "yield x, y, y", ["yield y, x, y"]),
]


@pytest.mark.parametrize(("operator", "text", "expected"), CASES, ids=[c[1] for c in CASES])
def test_operators(operator: str, text: str, expected: list[str]) -> None:
    assert changed(text, operator) == expected


def test_conditions_with_an_else() -> None:
    both = "if x < y:\n    return x\nelif x:\n    return 3\nelse:\n    return y"
    assert changed(both, "condition") == [
        *("if not (x < y):", "if True:", "if False:"),
        *("elif not (x):", "elif True:", "elif False:"),
    ]
    assert changed("if x:\n    y()\nelif y:\n    x()", "statement") == ["pass", "pass"]


def test_default_values() -> None:
    text = "def f(x: int = 3, *, y: bool = True, z=None, w: str = ''):\n    return 3\n"
    assert changes_of(text, "default") == [
        "def f(x: int = 4, *, y: bool = True, z=None, w: str = ''):",
        "def f(x: int = 0, *, y: bool = True, z=None, w: str = ''):",
        "def f(x: int = 3, *, y: bool = False, z=None, w: str = ''):",
        "def f(x: int = 3, *, y: bool = True, z=None, w: str = 'x'):",
    ]
    assert changes_of(text, "constant") == ["return 4", "return 0"]


def test_every_operator_is_tested() -> None:
    assert {case[0] for case in CASES} | {"default"} == set(OPERATORS)


@pytest.mark.parametrize(
    "text",
    [
        'def f(x: "int | None" = x) -> dict[str, 3]:\n    """The text 1 < 2."""\n',
        "def f(x):\n    y: list[int | str] = x\n",
        "def f(x):\n    raise ValueError('a' + x[1:])\n",
        "def f(x):\n    assert x > 3, 'a'\n",
        "def f(x):\n    return f'{x + 1}'\n",
        "def f(x):\n    return isinstance(x, int | str)\n",
        "def __repr__(self, x=3):\n    return x + 1\n",
        "def f(x):\n    if is_compiling():\n        return x + 1\n",
        "def f(x):\n    try:\n        del x\n    except E:\n        z = x + 1\n        raise z\n",
    ],
)
def test_what_nobody_grades_is_left_alone(text: str) -> None:
    assert changes_of(text) == []


def test_a_refusal_is_only_dropped() -> None:
    """Its message is not graded, and neither is the code before it that makes the message."""
    text = (
        "def f(x):\n    if x > g:\n        largest = x - 1\n        raise largest\n    return x\n"
    )
    assert changes_of(text) == ["pass", "if x >= g:"]


def test_a_comment_between_two_operands_is_left_alone() -> None:
    assert changed("return (x  # a < b\n    < y)", "comparison") == []


def test_an_edit_of_several_lines() -> None:
    """Places are counted in characters, and the tree counts bytes of UTF-8."""
    source = Source("def f(x):\n    x['é'] = g(\n        1,  # é\n    )\n    return x\n")
    edits = [e for e in edits_of(source.tree.body[0], source) if e.operator == "statement"]
    assert [source.edited(e) for e in edits] == ["def f(x):\n    pass\n    return x\n"]
    assert source.lines_around(edits[0]) == ("x['é'] = g(\n        1,  # é\n    )", "pass")
