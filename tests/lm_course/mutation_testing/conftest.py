"""The toy course, whose mistakes are graded in processes of their own."""

import pytest


@pytest.fixture
def course(toy_course, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", f"{toy_course.root}:{toy_course.PROJECT}")
    return toy_course
