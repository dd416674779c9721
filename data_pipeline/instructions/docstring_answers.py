"""Docstrings -> questions and answers, from the syntax tree: source code is parsed, never imported.

A documented function, class, method or module becomes one pair: a question with its full name, and
the first paragraph of its docstring as the answer, if that reads like a sentence. What this leaves
out: names that begin with an underscore, functions inside functions, overloads, and functions
written in C (math.sin has no source file).
"""

import ast
import hashlib
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

QUESTIONS: dict[str, tuple[str, ...]] = {
    "function": (
        "What does `{name}` do?",
        "What does the function `{name}` do?",
        "What is the purpose of the function `{name}`?",
    ),
    "method": (
        "What does `{name}` do?",
        "What does the method `{name}` do?",
        "What is the purpose of the method `{name}`?",
    ),
    "property": ("What is `{name}`?", "What is the attribute `{name}`?"),
    "class": (
        "What is the class `{name}` for?",
        "What is `{name}`?",
        "What is the purpose of the class `{name}`?",
    ),
    "module": ("What is the module `{name}` for?", "What is `{name}`?"),
}

ROLE = re.compile(
    r":(?:\w++:)?\w++:`~?!?([^`<]++)(?:<[^`>]*+>)?`"
)  # :func:`~os.path.join` -> os.path.join
DOUBLE_BACKTICKS = re.compile(r"``(.+?)``")
LINK = re.compile(r"`([^`<]++)<[^`>]*+>`__?")
SIGNATURE = re.compile(r"^[\w.]+\(.*\)\s*(?:->|--|=|:|$)", re.DOTALL)
SENTENCE_END = re.compile(r"[.!?]['\")`]?(?=\s|$)")
NOT_PROSE = re.compile(
    r">>>|<\||\.\. |={3,}|-{3,}|\{|\}|^\s*[-*+] |\|\s|:param|@param|TODO|FIXME|\bdeprecated\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """A documented name and the first paragraph of its docstring."""

    name: str  # fully qualified: "textwrap.TextWrapper.fill"
    module: str
    kind: str  # a key of QUESTIONS
    answer: str


def name_hash(name: str) -> int:
    """Return 64 bits that depend on the name alone; they order pairs, choose wordings and hold
    pairs out.
    """
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big")


def question_about(pair: Pair) -> str:
    """Return the question, in one of the wordings for the pair's kind."""
    wordings = QUESTIONS[pair.kind]
    return wordings[name_hash(f"wording of {pair.name}") % len(wordings)].format(name=pair.name)


def simplify_markup(text: str) -> str:
    """Turn reStructuredText roles, links and double backticks into plain text or single backticks,
    and whitespace into single spaces.
    """
    text = ROLE.sub(lambda role: f"`{role.group(1).strip()}`", text)
    text = LINK.sub(lambda link: link.group(1).rstrip(), text)
    text = DOUBLE_BACKTICKS.sub(r"`\1`", text)
    return " ".join(text.split())


def answer_of(docstring: str, min_characters: int, max_characters: int) -> str | None:
    """Return the first paragraph that is not a signature, cut to whole sentences, or None if it
    does not read like a sentence.

    A paragraph that ends with a colon, contains code or a list, or has fewer than four words is not
    an answer. If the last sentence has no end mark, a period is added.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=2)[:2]
    if paragraphs and SIGNATURE.match(paragraphs[0]):
        paragraphs = paragraphs[1:]
    if not paragraphs or NOT_PROSE.search(paragraphs[0]):
        return None
    text = simplify_markup(paragraphs[0])
    if text.endswith((":", ",", ";", "-", "=", "(")) or len(text.split()) < 4:
        return None
    if len(text) > max_characters:
        ends = [
            found.end() for found in SENTENCE_END.finditer(text) if found.end() <= max_characters
        ]
        text = text[: ends[-1]] if ends else ""
    elif text[-1].isalnum() or text[-1] in "`)'\"":
        text += "."
    starts_well = text[:1].isalpha() or text.startswith("`")
    letters = sum(c.isalpha() or c == " " for c in text)
    if (
        not starts_well
        or not min_characters <= len(text) <= max_characters
        or letters < 0.8 * len(text)
    ):
        return None
    return text[0].upper() + text[1:]


def _decorator_names(node: Definition) -> set[str]:
    names = set()
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        names.add(target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ""))
    return names


def _definitions(body: list[ast.stmt]) -> Iterator[Definition]:
    """Yield the public functions and classes of a body, including those under `if` and `try`."""
    for node in body:
        if isinstance(node, Definition):
            if not node.name.startswith("_") and "overload" not in _decorator_names(node):
                yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body + node.orelse)


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, str, str]]:
    """Yield (qualified name, kind, docstring) of the module, its functions, classes and their
    methods.
    """
    yield module, "module", ast.get_docstring(tree) or ""
    for node in _definitions(tree.body):
        name = f"{module}.{node.name}"
        is_class = isinstance(node, ast.ClassDef)
        yield name, "class" if is_class else "function", ast.get_docstring(node) or ""
        for method in _definitions(node.body) if is_class else ():
            if isinstance(method, ast.ClassDef):
                continue
            is_property = _decorator_names(method) & {"property", "cached_property"}
            kind = "property" if is_property else "method"
            yield f"{name}.{method.name}", kind, ast.get_docstring(method) or ""


def pairs_in_file(path: Path, module: str, min_characters: int, max_characters: int) -> list[Pair]:
    """Return the pairs of one source file in file order, one for each name.

    Raises SyntaxError or ValueError if the file does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(path.read_bytes())
    pairs: dict[str, Pair] = {}
    for name, kind, docstring in _documented(tree, module):
        if answer := answer_of(docstring, min_characters, max_characters):
            pairs.setdefault(name, Pair(name, module, kind, answer))
    return list(pairs.values())
