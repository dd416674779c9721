"""Every exception, also a worker's, becomes one line that says whose mistake it is."""

import importlib
import inspect
import os
import sys
import tomllib
from pathlib import Path

import pydantic
import pytest
import typer

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_core.worker_pool import worker_pool
from lm_course import cli, error_lines
from lm_course.error_lines import Explanation, explain

PROJECT = Path(__file__).parents[2]
LEARNERS = '''
"""A learner's file."""
from lm_core.artifact_paths import write_json
from lm_core.user_error import UserError

def own_mistake(counts):
    return counts[3]

def mistake_of_a_library(text):
    return int(text)

def called_with_nonsense(path):
    write_json(path, {"loss": float("nan")})

def refuses(value):
    raise UserError(f"{value}: expected a positive number")

def leaves(status):
    raise SystemExit(status)

def gives_pydantic(model, value):
    return model(first=value)
'''


@pytest.fixture
def learners_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the stand-in folder, importable as `learners`."""
    folder = tmp_path / "workspace"
    (folder / "tokenizer_bpe").mkdir(parents=True)
    path = folder / "tokenizer_bpe" / "learners.py"
    path.write_text(LEARNERS.lstrip(), encoding="utf-8")
    monkeypatch.setenv(STAND_INS_VARIABLE, str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(path.parent))
    # Spawned workers also look for the module.
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}:{path.parent}")
    yield path
    sys.modules.pop("learners", None)


WITHOUT_A_FILE = eval(compile("lambda: 0", "no file has this name", "eval"))


def explained(call, *arguments) -> Explanation:
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return explain(caught.value)


def in_a_worker(call, *arguments) -> Explanation:
    with worker_pool(1) as pool:
        return explained(lambda: list(pool.map(call, arguments)))


def refuse(value: object) -> None:
    raise UserError(f"{value}: expected\na positive number")


def divide(number: int) -> float:
    return number / 0


class Numbers(pydantic.BaseModel):
    first: int


def test_what_the_user_gave_is_printed_bare() -> None:
    found = explained(refuse, -1)
    assert (found.whose, found.status) == ("user", 2)
    assert found.line("shards", Path("x.txt")) == "-1: expected a positive number"
    assert "first" in explained(Numbers.model_validate, {"first": "many"}).line()
    missing = explained(Path("nowhere").read_text)
    assert missing == Explanation("user", "nowhere: No such file or directory")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: [].pop(), "IndexError: pop from empty list"),
        (lambda: int("x"), "ValueError: invalid literal for int() with base 10: 'x'"),
        (lambda: {}[3], "KeyError: 3"),
        (lambda: b"\xff".decode(), "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in"),
        (lambda: 1.0 / 0, "ZeroDivisionError: float division by zero"),
        (lambda: os.fstat(-1), "OSError: [Errno 9] Bad file descriptor"),
        (lambda: inspect.getsource(WITHOUT_A_FILE), "OSError: could not get source code"),
    ],
)
def test_any_other_error_is_internal(call, message: str) -> None:
    """Including Python's own ValueErrors."""
    found = explained(call)
    assert (found.whose, found.status) == ("internal", 1)
    assert found.text.startswith(message)
    line = found.line("scaling", Path("runs/demo/errors/scaling.txt").absolute())
    assert line.startswith(f"internal error in step scaling: {message}")
    assert line.endswith("; the traceback is in runs/demo/errors/scaling.txt")


def test_a_long_message_is_cut_and_an_empty_one_left_out() -> None:
    def fail(text: str) -> None:
        raise RuntimeError(text)

    assert explained(fail, "").text == "RuntimeError"
    assert len(explained(fail, "word \n" * 1000).text) < 330


def test_a_mistake_in_the_learners_file_names_their_line(learners_file: Path) -> None:
    learners = importlib.import_module("learners")
    found = explained(learners.own_mistake, {})
    assert (found.whose, found.status) == ("learner", 1)
    place = "your workspace/tokenizer_bpe/learners.py"
    assert (
        found.text == f"{place}, line 6, in own_mistake: KeyError: 3 (the line: return counts[3])"
    )
    assert explained(learners.mistake_of_a_library, "x").text == (
        f"{place}, line 9, in mistake_of_a_library: ValueError: invalid literal for int() with "
        "base 10: 'x' (the line: return int(text))"
    )


@pytest.mark.parametrize("task", ["a1.3", "a3_data.11"])
def test_a_stub_is_for_the_learner_to_write(task: str) -> None:
    told = explain(NotImplementedError(f"{task}: write merge_pair"))
    assert told.whose == "user"
    assert told.text.endswith(f"still the stub; `lm check {task}` says more")


def test_an_error_of_ours_below_the_learners_call_names_both(learners_file: Path) -> None:
    learners = importlib.import_module("learners")
    found = explained(learners.called_with_nonsense, learners_file.with_name("x.json"))
    assert found.whose == "internal"
    assert found.text.startswith("ValueError: Out of range float values are not JSON compliant")
    assert found.text.endswith(
        "; called from your workspace/tokenizer_bpe/learners.py, line 12, in called_with_nonsense "
        '(the line: write_json(path, {"loss": float("nan")}))'
    )


def test_what_a_learners_function_refuses_is_the_users(learners_file: Path) -> None:
    learners = importlib.import_module("learners")
    assert explained(learners.refuses, -1) == Explanation("user", "-1: expected a positive number")


def test_a_learners_function_that_leaves_python_or_misuses_a_setting_is_theirs(
    learners_file: Path, stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = importlib.import_module("learners")
    place = "your workspace/tokenizer_bpe/learners.py"
    found = explained(learners.gives_pydantic, Numbers, "many")
    assert (found.whose, found.text.startswith(f"{place}, line 21, in gives_pydantic")) == (
        "learner",
        True,
    )
    monkeypatch.setattr(
        "lm_course.commands.scaling_table.print_fit", lambda runs, budget: learners.leaves(0)
    )
    status, error = stopped("scaling", "fit", "x.csv")
    assert status == 1
    assert error.startswith(f"lm: {place}, line 18, in leaves: SystemExit: 0 (the line: ")


def test_a_panic_in_a_library_is_internal(stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyO3 raises it as a BaseException that is not an Exception (tokenizers, safetensors)."""

    class PanicException(BaseException):
        pass

    def panic(runs: Path, budget: float) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("lm_course.commands.scaling_table.print_fit", panic)
    status, error = stopped("scaling", "fit", "x.csv")
    assert status == 1
    assert error.startswith("lm: internal error: ") and "index out of bounds" in error


def test_a_file_that_python_cannot_load(learners_file: Path) -> None:
    place = "your workspace/tokenizer_bpe/learners.py"
    learners_file.write_text("def f(:\n    pass\n", encoding="utf-8")
    found = explained(importlib.import_module, "learners")
    assert found.text.startswith(f"{place}, line 1: SyntaxError: ")
    assert found.text.endswith("(the line: def f(:)")
    learners_file.write_text("x = 1\n", encoding="utf-8")
    importlib.invalidate_caches()
    found = explained(exec, "from learners import missing")
    assert found.text.startswith(f"{place}: ImportError: cannot import name 'missing' from")


def test_an_error_of_a_worker_process_is_what_it_is_here(learners_file: Path) -> None:
    learners = importlib.import_module("learners")
    assert in_a_worker(learners.refuses, -1) == explained(learners.refuses, -1)
    assert in_a_worker(learners.own_mistake, {}) == explained(learners.own_mistake, {})
    assert in_a_worker(int, "x").whose == "internal"


def test_the_packages_are_those_of_the_project() -> None:
    built = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(error_lines.PACKAGES) == set(
        built["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )
    assert built["project"]["name"] == error_lines.DISTRIBUTION


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """Run `lm` in this process, and return its exit status and standard error."""
    monkeypatch.setattr(cli.signal, "signal", lambda number, handler: None)  # pytest's stays
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(error_lines.TRACEBACK_VARIABLE, "")

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        return caught.value.code, capsys.readouterr().err

    return run


def test_an_error_outside_a_step_keeps_its_traceback_in_the_temporary_folder(
    stopped, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "lm_course.commands.scaling_table.print_fit", lambda runs, budget: divide(1)
    )
    status, error = stopped("scaling", "fit", "x.csv")
    assert status == 1
    (kept,) = tmp_path.glob("lm-error-*.txt")
    line = "lm: internal error: ZeroDivisionError: division by zero; the traceback is in "
    assert error.startswith(line)
    assert error.rstrip().endswith(kept.name)
    assert error.count("\n") == 1
    assert "in divide\n    return number / 0\n" in kept.read_text(encoding="utf-8")


def test_an_error_is_said_where_no_temporary_folder_can_be_written(
    stopped, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(
        "lm_course.commands.scaling_table.print_fit", lambda runs, budget: divide(1)
    )
    line = "lm: internal error: ZeroDivisionError: division by zero\n"
    assert stopped("scaling", "fit", "x.csv") == (1, line)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--debug", "run", "nowhere.toml"),
        ("run", "nowhere.toml", "--debug"),
        ("run", "nowhere.toml"),
    ],
)
def test_debug_shows_the_traceback_before_or_after_the_command(stopped, arguments) -> None:
    status, error = stopped(*arguments)
    assert status == 2
    assert ("Traceback (most recent call last)" in error) == ("--debug" in arguments)
    assert error.splitlines()[-1].startswith("lm: nowhere.toml: no such recipe")


def test_the_variable_shows_the_traceback(stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, shown in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(error_lines.TRACEBACK_VARIABLE, value)
        assert ("Traceback" in stopped("run", "nowhere.toml")[1]) == shown


def test_debug_after_two_dashes_is_an_argument() -> None:
    assert cli.debug_first(["generate", "--", "--debug"]) == ["generate", "--", "--debug"]
    assert cli.debug_first(["run", "--debug", "x"]) == ["--debug", "run", "x"]


def test_the_version_is_that_of_the_package(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    monkeypatch.setattr(cli.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(cli, "version", lambda: "1.2.3")
    cli.main(["--version"])
    assert capsys.readouterr().out == "lm 1.2.3\n"
    assert error_lines.version() in (built["project"]["version"], "unknown")
    monkeypatch.setattr(error_lines, "DISTRIBUTION", "no-such-distribution")
    assert error_lines.version() == "unknown"


@pytest.mark.parametrize("command", ["generate", "scaling fit", "tokenizer"])
def test_a_usage_error_names_the_help_of_its_command(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--no-such-option"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"(see `lm {command} --help`)\n")


@pytest.mark.parametrize(
    ("command", "resumes"),
    [("run", True), ("--debug pretrain", True), ("data build", True), ("generate run", False)]
    + [(command, False) for command in ("serve", "chat", "bench serve", "check a1")]
    + [(command, False) for command in ("tokenizer encode x", "scaling fit a.csv", "data verdicts")]
    + [("tokenizer train", True), ("data get x", True), ("scaling sweep", True)],
)
def test_only_a_command_that_resumes_says_so_at_ctrl_c(
    command, resumes, monkeypatch, capsys
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 130
    line = capsys.readouterr().err
    assert line.startswith("lm: stopped") and ("resumes" in line) == resumes


def test_every_command_that_resumes_exists() -> None:
    def names(app: typer.Typer) -> set[str]:
        return {each.name or each.callback.__name__ for each in app.registered_commands}

    known = names(cli.app)
    for group in cli.app.registered_groups:
        known |= {f"{group.name} {name}" for name in names(group.typer_instance)}
    assert known >= cli.RESUMED
