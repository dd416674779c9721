"""The renderer itself, in this process: the details that it removes from pydoc's pages."""

import importlib.util
import types

import data_pipeline.sources.python_documentation as documentation


def load_child() -> types.ModuleType:
    """Import the script as a module; the pipeline starts it as a file."""
    spec = importlib.util.spec_from_file_location("pydoc_child", documentation.CHILD_SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_addresses_paths_and_double_escapes_are_removed(tmp_path):
    child = load_child()
    renderer = child.PortableHTMLDoc()
    renderer.machine_paths = ["/opt/python"]
    fake = types.ModuleType("fake", "Lives at /opt/python/lib.")
    fake.thing = object()
    fake.where = "/opt/python/bin"

    class Shown:
        """Shown."""

        def __init__(self, function=len, kind=dict) -> None: ...

    Shown.__module__ = "fake"
    fake.Shown = Shown
    fake.__all__ = ["Shown", "thing", "where"]
    html = renderer.page("fake", renderer.document(fake, "fake"))
    assert " at 0x" not in html.replace("&nbsp;", " ")
    assert "/opt/python" not in html
    assert "&amp;lt;" not in html
    assert "thing" in html
