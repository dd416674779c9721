"""Rendering in child processes: same bytes twice, and modules that print, hang, crash or exit."""

import re
import sys
from pathlib import Path

import pytest

from data_pipeline.sources.python_documentation import (
    child_environment,
    installed_readmes,
    is_public_module,
    render_batch,
    render_modules,
    standard_library_modules,
)

SMALL = ["configparser", "ctypes", "difflib", "os", "sys", "tempfile", "textwrap"]


def test_two_renderings_give_the_same_bytes():
    first, failures = render_modules(SMALL, 20, 2, lambda n: None)
    second, _ = render_modules(SMALL, 20, 1, lambda n: None)
    assert failures == {}
    assert [page.url for page in first] == [f"pydoc://{name}" for name in SMALL]
    assert first == second


def test_pages_hold_no_address_and_no_path_of_this_machine():
    pages, _ = render_modules(SMALL, 20, 1, lambda n: None)
    for page in pages:
        html = page.payload.decode("utf-8")
        assert not re.search(r"(at|handle)(&nbsp;| )(0x)?[0-9a-f]{8,}", html), page.url
        for path in (sys.prefix, sys.base_prefix, str(Path.home())):
            assert path == "/" or path not in html, page.url
        assert "file:" not in html or "file:///" in html, page.url


@pytest.fixture
def strange_modules(tmp_path):
    """Create a folder of modules that misbehave when they are imported."""
    sources = {
        "good_before": '"""Good before."""',
        "prints": '"""It prints."""\nimport os\nprint("noise")\nos.write(2, b"Timeout (no)")',
        "asks": '"""It asks."""\ninput("name? ")',
        "raises": "raise RuntimeError('no')",
        "exits": "import sys\nsys.exit(3)",
        "hangs": "import time\nwhile True:\n    time.sleep(0.01)",
        "crashes": "import os\nos._exit(7)",
        "kills": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "browses": '"""It browses."""\nimport webbrowser\nwebbrowser.open("http://localhost:1/")',
        "good_after": '"""Good after."""',
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    return tmp_path, list(sources)


def test_strange_modules_cost_only_themselves(strange_modules, capfd):
    folder, names = strange_modules
    results = {name: (html, reason) for name, html, reason in render_batch(names, 1.0, str(folder))}
    assert list(results) == names
    reasons = {name: reason for name, (html, reason) in results.items() if html is None}
    assert reasons == {
        "asks": "EOFError",
        "raises": "RuntimeError",
        "exits": "SystemExit",
        "hangs": "timed out",
        "crashes": "ended the process",
        "kills": "ended the process",
    }
    assert "Good after." in results["good_after"][0].replace("&nbsp;", " ")
    assert capfd.readouterr() == ("", "")


def test_the_modules_are_public_ones_of_the_standard_library():
    names = standard_library_modules()
    assert names == sorted(set(names))
    assert {"json", "json.decoder", "math", "sys", "posixpath", "textwrap"} <= set(names)
    assert len(names) > 400
    for name in names:
        assert name.partition(".")[0] in sys.stdlib_module_names
        assert is_public_module(name), name


@pytest.mark.parametrize(
    "name",
    ["_ast", "json._x", "test", "test.support", "lib2to3.tests", "unittest.test.x", "idlelib.run",
     "distutils.tests", "a.test_b", "antigravity", "this", "turtledemo.clock"],
)  # fmt: skip
def test_private_modules_and_tests_are_left_out(name):
    assert not is_public_module(name)


def test_names_that_only_look_like_tests_stay():
    assert is_public_module("doctest")
    assert is_public_module("unittest.mock")


def test_the_child_sees_a_fixed_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    environment = child_environment("/home/nobody")
    assert "SECRET" not in environment
    assert environment["PYTHONHASHSEED"] == "0"


def test_readmes_are_those_of_the_installed_distributions():
    pages = {page.url: page for page in installed_readmes()}
    assert list(pages) == sorted(pages)
    numpy_page = pages["readme://numpy"]
    assert numpy_page.content_type == "text/markdown"
    assert b"array" in numpy_page.payload
