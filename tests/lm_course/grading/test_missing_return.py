"""Only the function that returned None by mistake is named."""

import importlib.util
from pathlib import Path

import pytest

from lm_course.grading.check_outcome import LearnerCode
from lm_course.grading.missing_return import function_without_return, is_about_none

SOURCE = """
def forgets(x):
    x + 1

def gives(x):
    return x

def raises(x):
    raise ValueError("no")

def many(x):
    yield x

def stores(x) -> None:
    x.append(1)

def chooses(x):
    stores(x)
    return None if x else 1

class Box:
    def forgets(self):
        "nothing"
"""
NAMES = {"forgets", "gives", "raises", "many", "stores", "chooses", "Box.forgets"}


@pytest.fixture
def learner(tmp_path: Path):
    path = tmp_path / "learner.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("learner", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, LearnerCode((tmp_path,), tmp_path)


def caught(module, check: str) -> None:
    try:
        eval(check, {"m": module})
    except ValueError:
        dict(None)


@pytest.mark.parametrize(
    ("check", "name"),
    [
        ("dict(m.forgets(1))", "forgets"),
        ("len(m.Box().forgets())", "Box.forgets"),
        ("(list(m.many(1)), m.gives(2), dict(m.forgets(1)))", "forgets"),
        ("(m.forgets(1), len(m.chooses([])))", "chooses"),
        ("(m.stores([]), dict(None))", ""),
        ("(list(m.many(1)), m.gives(None) is None, [].x.y)", ""),
        ("m.forgets(1)", ""),
    ],
)
def test_the_last_to_return_none(learner, check: str, name: str) -> None:
    module, code = learner
    found = function_without_return(lambda: eval(check, {"m": module}), code, NAMES - {"gives"})
    assert found == name


def test_an_error_is_not_a_return(learner) -> None:
    module, code = learner
    assert function_without_return(lambda: caught(module, "m.raises(1)"), code, NAMES) == ""
    elsewhere = LearnerCode((Path("/nowhere"),), Path("/nowhere"))
    assert function_without_return(lambda: dict(module.forgets(1)), elsewhere, NAMES) == ""
    assert function_without_return(lambda: dict(module.forgets(1)), code, NAMES - {"forgets"}) == ""


def test_which_errors_are_about_none() -> None:
    for text in ("'NoneType' object is not iterable", "cannot unpack non-iterable NoneType object"):
        assert is_about_none(TypeError(text))
    assert is_about_none(AttributeError("'NoneType' object has no attribute 'keys'"))
    assert not is_about_none(TypeError("unhashable type: 'list'"))
    assert not is_about_none(ValueError("NoneType"))
