"""The environment in which a chat template runs: that of `transformers`, for which it is written.

A template is untrusted code, so it runs in Jinja's sandbox, where it cannot change its arguments.
The additions of `transformers` to Jinja are added here: the tag `generation`, loop controls,
`tojson` without HTML escapes, `raise_exception`, `strftime_now`, and a `dict` and a `namespace`
that give no access to other objects.

What this leaves out: the tokens that the tag `generation` marks; its text is rendered like any
other.

Source: `render_jinja_template` of `transformers`, with which a test compares this module.
"""

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template


@lru_cache(maxsize=8)
def compiled_template(text: str) -> "Template":
    """Return the compiled template; Jinja raises an error if it is invalid."""
    # Imported here, because stages that never chat should not spend the time.
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dictionary(),
        "namespace": _namespace(),
    }
    return environment.from_string(text)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON; Jinja's own filter would escape `<` for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dictionary:
    """`dict` without the attributes of a class."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _namespace() -> type:
    """Return Jinja's `namespace`, without names that begin with an underscore."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}; names may not begin with _")

    class PublicNamespace(Namespace):
        def __init__(*args: Any, **named: Any) -> None:  # `self` may be one of the names
            attributes = dict(*args[1:], **named)
            for name in attributes:
                check(name)
            Namespace.__init__(args[0], attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    return PublicNamespace


def _generation_tag() -> type:
    """Return the tag {% generation %} ... {% endgeneration %}, which encloses the assistant's
    text.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        tags: ClassVar = {"generation"}

        def parse(self, parser: Parser) -> nodes.CallBlock:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A separate block, as in `transformers`: variables set inside are not visible outside.
            call = self.call_method("_unchanged")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _unchanged(self, caller: Any) -> str:
            return caller()

    return GenerationTag
