"""The space of a graded function's inputs: what may be passed to it, and how a result is looked at.

A suite declares one `Space` for each graded function, in `assignments/aN/test_drawn_*.py`. The
grader draws inputs from it, calls the code under test and the reference with the same ones
(drawn_checks.py), and applies the contracts that hold for every function (contracts.py). What this
leaves out: worked examples and counts of work, which are checks of their own.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the grader imports this module, and only suites need Hypothesis
    from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Space:
    """The inputs of one function, and how it is called with them.

    Attributes:
        task: "a1.2", the task that the function belongs to.
        name: "tokenizer_bpe.naive_training.count_pairs": package, module, function or method.
        inputs: draws a dict, name of an argument -> value. The values must survive pickle, because
            the reference is called in another process.
        call: calls the function of a module with the drawn inputs. By default, it gets them by
            position.
        view: turns what `call` returned into plain values that can be compared and pickled:
            numbers, strings, bytes, tuples, lists, dicts, tensors.
        errors: the errors that the handout declares. Where the reference raises one, the code under
            test must too.
        told: a regular expression for what a message must name. What it finds in the reference's
            message must stand in the other's.
        draws: how many inputs are drawn.
        examples: inputs that are tried before any is drawn, such as every kind of wrong input.
        changes: the inputs that the function may change; all others must stay as they were.
        prints: whether the function may print.
        seeds: whether it may use or set the global random generators.
        makes: constructs the object that is called, such as a layer with new weights. Then the
            contracts of new objects hold, and PyTorch's global generator may be used for them.
        oracle: computes the result, in place of the reference, from the inputs: for a reference
            that takes long. It is called in the process of the reference.
    """

    task: str
    name: str
    inputs: "SearchStrategy[dict[str, Any]]"
    call: Callable[..., Any] | None = None
    view: Callable[[Any], Any] | None = None
    errors: tuple[type[Exception], ...] = (ValueError,)
    told: str = ""
    draws: int = 60
    examples: Sequence[dict[str, Any]] = ()
    changes: tuple[str, ...] = ()
    prints: bool = False
    seeds: bool = False
    makes: Callable[..., Any] | None = None
    oracle: Callable[..., Any] | None = None

    @property
    def module(self) -> str:
        """The name under which the module is imported."""
        return ".".join(self.name.split(".")[:2])

    @property
    def function(self) -> str:
        """The name that messages use."""
        return self.name.split(".", 2)[2]

    def result_of(self, module: ModuleType, inputs: Mapping[str, Any]) -> Any:
        """Call the function of `module`, which is the learner's or the reference's."""
        inputs = built(inputs)
        if self.call is not None:
            return self.call(module, **inputs)
        return getattr(module, self.function)(*inputs.values())

    def viewed(self, value: Any) -> Any:
        return value if self.view is None else self.view(value)


def arguments(each: "Mapping[str, SearchStrategy[Any]]") -> "SearchStrategy[dict[str, Any]]":
    """Return the strategy for inputs that are drawn independently, in the order given."""
    from hypothesis.strategies import fixed_dictionaries

    return fixed_dictionaries(dict(each)).map(lambda drawn: {name: drawn[name] for name in each})


def built(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with each description of a tensor (drawn_tensors.py) replaced by it."""
    return {
        name: value.build() if hasattr(value, "build") else value for name, value in inputs.items()
    }


@dataclass(frozen=True)
class Returned:
    """The value that a function returned, as it is and as it is compared, and its printed text."""

    value: Any
    seen: Any
    printed: str = ""


@dataclass(frozen=True)
class Raised:
    """The declared error that a function raised."""

    kind: str
    message: str


def outcome_of(space: Space, module: ModuleType, inputs: Mapping[str, Any]) -> Returned | Raised:
    """Call the function, and return its result or the declared error that it raised; other errors
    are not caught.
    """
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            value = space.result_of(module, inputs)
            seen = space.viewed(value)
    except NotImplementedError:
        raise
    except space.errors as error:
        return Raised(type(error).__name__, str(error))
    return Returned(value, seen, output.getvalue())


def outcome_of_reference(space: Space, inputs: Mapping[str, Any]) -> Returned | Raised:
    """Return the outcome in the process of the reference, ready to be sent."""
    if space.oracle is not None:
        try:
            return Returned(None, space.viewed(space.oracle(**built(inputs))))
        except space.errors as error:
            return Raised(type(error).__name__, str(error))
    outcome = outcome_of(space, import_module(space.module), inputs)
    return outcome if isinstance(outcome, Raised) else Returned(None, outcome.seen)
