"""A recipe as TOML text, for an entry that can be trained again from this one file.

What this leaves out: everything that settings do not hold, such as dates and tables in lists.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def recipe_text(recipe: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the TOML text of sections of settings; `tomllib` reads the same values from it.

    Args:
        recipe: section -> key -> value. A value is a section, a list or a plain value; a key whose
            value is None is left out, because TOML has no such value.
    """
    return "\n".join(_table((name,), section) for name, section in recipe.items())


def _table(path: tuple[str, ...], section: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(key)} = {_value(v)}" for key, v in plain.items() if v is not None]
    inner = [(key, value) for key, value in section.items() if isinstance(value, Mapping)]
    return "\n".join(["\n".join(lines) + "\n", *(_table((*path, key), v) for key, v in inner)])


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    assert isinstance(value, Sequence), f"TOML has no value for {value!r}"
    return f"[{', '.join(map(_value, value))}]"
