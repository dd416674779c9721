"""The grader: a pytest plugin that runs the suites under assignments/ against a learner's code.

`pytest assignments/a1` chooses the implementation, runs every check in its own child, and ends with
the table and the first thing to fix. The plugin does nothing for other tests. `-v` restores
pytest's own output, for authors of suites; `--pdb` runs the checks in this process, without limits.

What this leaves out: the run itself (graded_session), and the correct results (the suites).
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from lm_course.grading.graded_session import THOROUGH, GradedRun
from lm_course.learning.assignment_file import FILE_NAME
from lm_course.learning.written_answers import Answers
from lm_course.locations import ASSIGNMENTS, shipped

if TYPE_CHECKING:
    from lm_course.drawn_inputs.drawn_checks import DrawnInputs

PLUGIN = "graded-run"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("assignments", "graded assignments")
    group.addoption(
        "--impl",
        metavar="reference|workspace|FOLDER",
        help="the code to check; by default your workspace if it exists, else the reference",
    )
    group.addoption(
        "--task", action="append", default=[], metavar="ID", help="check only this task (a1.3)"
    )
    group.addoption(
        "--grade-json", type=Path, metavar="FILE", help="also write the grades to this file"
    )
    group.addoption(
        "--thorough",
        action="store_true",
        help=f"draw {THOROUGH} times as many inputs, and allow {THOROUGH} times the time",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "task(id): the check's task in assignment.toml")
    config.addinivalue_line(
        "markers", "limit(seconds=10, memory_mb=2000): what a graded check may use"
    )
    folders = _graded_folders(config)
    if folders:
        try:
            run = GradedRun(config, folders)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        if run.quiet:
            _silence(config)
        config.pluginmanager.register(run, PLUGIN)


def _silence(config: pytest.Config) -> None:
    """Reduce pytest's own output to one letter per check; the table says the rest."""
    option = config.option
    option.verbose = -2
    option.no_header = True
    option.tbstyle = "no"
    option.reportchars = ""
    option.durations = None
    option.disable_warnings = True


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore assignments/ in a run that is not graded."""
    inside = collection_path == shipped(ASSIGNMENTS, config.rootpath)
    return True if inside and not config.pluginmanager.has_plugin(PLUGIN) else None


def _graded_folders(config: pytest.Config) -> list[str]:
    """Return the ids of the assignments on the command line; empty if it names other tests."""
    home = shipped(ASSIGNMENTS, config.rootpath)
    ids: list[str] = []
    others = False
    for argument in config.args:
        path = (config.invocation_params.dir / argument.split("::")[0]).resolve()
        if path == home:
            ids += sorted(file.parent.name for file in home.glob(f"*/{FILE_NAME}"))
        elif path.is_relative_to(home):
            ids.append(path.relative_to(home).parts[0])
        else:
            others = True
    if ids and others:
        raise pytest.UsageError(
            f"{ASSIGNMENTS}/ and other tests in one run: the implementation is chosen only once "
            "per process; run them separately"
        )
    return list(dict.fromkeys(ids))


@pytest.fixture
def implementation(request: pytest.FixtureRequest) -> Callable[[str], ModuleType]:
    """implementation("tokenizer_bpe.naive_training") imports the module under test; call it inside
    the test function. The check is "not submitted" if the folder lacks the file.
    """
    return partial(_graded_run(request).import_module, request.node)


@pytest.fixture
def drawn_inputs(request: pytest.FixtureRequest) -> "DrawnInputs":
    """The inputs of the check's `space`, and the process that answers for the reference."""
    from lm_course.drawn_inputs.drawn_checks import DrawnInputs  # loads Hypothesis

    if not hasattr(os, "fork"):
        pytest.skip("without os.fork, the reference cannot answer in a process of its own")
    space = request.node.callspec.params["space"]
    run = _graded_run(request)
    reference = run.reference_process(request.session.items)
    folder = run.implementation.failed_inputs
    check = request.node.originalname.removeprefix("test_")
    failed = folder / f"{space.name}.{check}.pickle" if folder else None
    is_unwritten = space.task in reference.unwritten
    drawn = reference.first_drawn(space) if is_unwritten else reference.drawn(space)
    return DrawnInputs(space, drawn, reference, failed)


@pytest.fixture
def answers(request: pytest.FixtureRequest) -> Answers:
    """The learner's answers.toml: answers["key"], answers.number("key"), answers.text("key")."""
    run = _graded_run(request)
    assignment = run.assignment_of(request.node)
    path = run.implementation.answers_file(assignment)
    return Answers(path, run.implementation.code(assignment).name(path))


def _graded_run(request: pytest.FixtureRequest) -> GradedRun:
    run = request.config.pluginmanager.get_plugin(PLUGIN)
    assert run is not None, f"this fixture is for the suites under {ASSIGNMENTS}/"
    return run
