"""Steps run when their settings, code or inputs changed, when their outputs were touched, and not
otherwise.
"""

import errno
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lm_core.artifact_paths import RunPaths
from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_course.interrupts import Interrupts
from lm_course.pipeline import recipe_runner
from lm_course.pipeline.recipe_runner import Step, StepContext, fingerprint, read_record, run_recipe
from lm_course.pipeline.step_failures import StepsFailed, read_failure
from lm_course.pipeline.steps import STEPS
from tokenizer_bpe.merge_training import TokenizerSettings


class Numbers(Settings):
    first: int = 1


class Letters(Settings):
    word: str = "a"


class RunSection(Settings):
    name: str = "test"


class SmallRecipe(Settings):
    run: RunSection = RunSection()
    numbers: Numbers = Numbers()
    letters: Letters = Letters()


class House:
    """Two steps: `numbers` writes a file, `letters` reads it. `calls` says which ones ran."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = RunPaths(root / "runs" / "test")
        self.calls: list[str] = []
        self.code = {"package_a": "1", "package_b": "1"}
        self.fail = False
        self.broken: dict[str, BaseException] = {}  # step -> what it raises
        self.said = ""
        monkeypatch.setattr(recipe_runner, "code_hash", lambda package: self.code[package])
        self.steps = [
            self.step("numbers", "package_a", needs=()),
            self.step("letters", "package_b", needs=("numbers",)),
        ]

    def step(self, name: str, package: str, needs: tuple[str, ...]) -> Step:
        def run(context: StepContext) -> dict[str, Any]:
            self.calls.append(name)
            if self.fail:
                raise KeyboardInterrupt
            if name in self.broken:
                raise self.broken[name]
            section = getattr(context.recipe, name)
            (context.paths.root / name).write_text(str(section))
            return {"value": str(section)}

        outputs = lambda paths, recipe: [paths.root / name]  # noqa: E731
        describe = lambda summary: summary["value"]  # noqa: E731
        return Step(name, f"lm {name}", (name,), (package,), needs, outputs, run, describe)

    def run(self, force: tuple[str, ...] = (), **sections: Settings) -> list[str]:
        self.calls.clear()
        recipe = SmallRecipe(**sections)
        output = io.StringIO()
        try:
            run_recipe(recipe, self.paths, self.steps, force, console=Console(file=output))
        finally:
            self.said = output.getvalue()
        return list(self.calls)

    def run_and_fail(self, force: tuple[str, ...] = (), **sections: Settings) -> StepsFailed:
        with pytest.raises(StepsFailed) as caught:
            self.run(force, **sections)
        return caught.value


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


def test_the_second_time_nothing_runs(house: House) -> None:
    assert house.run() == ["numbers", "letters"]
    assert house.run() == []


def test_a_changed_setting_runs_its_step_and_those_that_read_its_output(house: House) -> None:
    house.run()
    assert house.run(numbers=Numbers(first=2)) == ["numbers", "letters"]
    assert house.run(numbers=Numbers(first=2), letters=Letters(word="b")) == ["letters"]


def test_the_digit_rule_is_a_setting_that_decides_the_tokenizer(tmp_path: Path) -> None:
    step = replace(next(s for s in STEPS if s.name == "tokenizer"), needs=(), sections=("part",))
    found = {
        fingerprint(
            step,
            SimpleNamespace(part=TokenizerSettings(pattern="gpt4", max_digits=digits)),
            RunPaths(tmp_path),
        )
        for digits in (None, 0, 1, 2, 3)
    }
    assert len(found) == 5


def test_an_output_that_comes_out_the_same_stops_the_chain(house: House) -> None:
    house.run()
    assert house.run(force=("numbers",)) == ["numbers"]


def test_changed_code_runs_the_step(house: House) -> None:
    house.run()
    house.code["package_b"] = "2"
    assert house.run() == ["letters"]


def test_an_output_that_was_removed_or_edited_is_made_again(house: House) -> None:
    house.run()
    (house.paths.root / "numbers").unlink()
    assert house.run() == ["numbers"]
    (house.paths.root / "letters").write_text("edited")
    assert house.run() == ["letters"]


def test_force_removes_the_old_output_first(house: House) -> None:
    house.run()
    house.fail = True
    with pytest.raises(KeyboardInterrupt):
        house.run(force=("letters",))
    assert not (house.paths.root / "letters").exists()
    assert (house.paths.root / "numbers").exists()


def test_a_touched_but_equal_output_is_still_up_to_date(house: House) -> None:
    house.run()
    path = house.paths.root / "numbers"
    path.write_text(path.read_text())
    assert house.run() == []


def test_an_interrupted_step_runs_again_and_leaves_no_record(house: House) -> None:
    house.fail = True
    with pytest.raises(KeyboardInterrupt):
        house.run()
    assert read_record(house.paths, "numbers") is None
    house.fail = False
    assert house.run() == ["numbers", "letters"]


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"step": 1}'])
def test_a_damaged_record_is_no_record(house: House, damaged: bytes) -> None:
    house.run()
    house.paths.step_record("numbers").write_bytes(damaged)
    assert read_record(house.paths, "numbers") is None
    assert house.run() == ["numbers"]


def test_a_step_without_its_input_says_what_to_run(house: House) -> None:
    house.steps = house.steps[1:]
    with pytest.raises(ValueError, match="lm letters needs the step 'numbers', which has not been"):
        house.run()


def test_a_step_refuses_an_input_that_is_not_what_its_step_finished_with(house: House) -> None:
    house.run()
    (house.paths.root / "numbers").write_text("half of another run")
    house.steps = house.steps[1:]
    with pytest.raises(ValueError, match="files of the step 'numbers' are not those"):
        house.run()


def test_force_leaves_what_a_person_brought(house: House) -> None:
    house.run()
    own = house.paths.root / "numbers"
    step = house.steps[0]
    house.steps[0] = replace(
        step, users_own=lambda recipe: [own], run=lambda context: {"value": ""}
    )
    before = own.read_text()
    house.run(force=("numbers",))
    assert own.read_text() == before


def test_the_resolved_settings_are_saved(house: House) -> None:
    house.run(numbers=Numbers(first=7))
    assert '"first": 7' in house.paths.settings.read_text()


@pytest.fixture
def with_a_reader(house: House) -> House:
    """A third step, `reading`, that reads what the others wrote, and does without."""

    def run(context: StepContext) -> dict[str, Any]:
        house.calls.append("reading")
        (context.paths.root / "reading").write_text(" ".join(sorted(context.ready)))
        return {"value": "read"}

    step = house.step("reading", "package_b", needs=())
    house.steps.append(replace(step, sections=(), run=run, uses=("numbers", "letters")))
    return house


def read(house: House) -> str:
    return (house.paths.root / "reading").read_text()


def test_a_failed_step_costs_those_that_need_it_and_no_other(with_a_reader: House) -> None:
    house = with_a_reader
    house.broken["numbers"] = UserError("no numbers in [this] file")
    failed = house.run_and_fail()
    assert house.calls == ["numbers", "reading"]
    assert (failed.status, str(failed)) == (
        1,
        "step numbers failed: no numbers in [this] file; not run because of that: letters",
    )
    assert house.said.splitlines()[:2] == [
        "1/3 numbers  failed: no numbers in [this] file",
        "2/3 letters  not run: it needs numbers, which failed",
    ]
    assert house.said.splitlines()[2].startswith("3/3 reading  read  0:00")
    assert house.said.splitlines()[3].startswith("test: 2 of 3 steps have no result, after 0:00")
    assert read(house) == ""
    assert read_record(house.paths, "numbers") is None


def test_what_was_not_run_names_the_step_that_failed_not_those_between(house: House) -> None:
    house.steps.append(replace(house.step("last", "package_b", ("letters",)), sections=()))
    house.broken["numbers"] = UserError("no numbers")
    failed = house.run_and_fail()
    assert "3/3 last     not run: it needs numbers, which failed" in house.said.splitlines()
    assert str(failed).endswith("not run because of that: letters, last")


def test_the_notes_of_a_failure_vanish_when_the_step_ends_well(with_a_reader: House) -> None:
    house = with_a_reader
    house.broken["numbers"] = RuntimeError("a mistake")
    house.run_and_fail()
    kept = house.paths.root / "errors" / "numbers.txt"
    assert "RuntimeError: a mistake" in kept.read_text()
    assert "Traceback (most recent call last)" in kept.read_text()
    house.broken.clear()
    assert house.run() == ["numbers", "letters", "reading"]
    assert read(house) == "letters numbers"
    assert not kept.parent.exists()
    assert [read_failure(house.paths, step.name) for step in house.steps] == [None] * 3
    assert house.run() == []


def test_a_failure_again_is_not_up_to_date(with_a_reader: House) -> None:
    house = with_a_reader
    house.broken["letters"] = UserError("no letters")
    house.run_and_fail()
    house.run_and_fail()
    assert house.calls == ["letters"]  # the reader has told of this failure already
    house.broken["letters"] = UserError("another reason")
    house.run_and_fail()
    assert house.calls == ["letters", "reading"]


def test_a_step_that_fails_after_a_success_does_not_pass_for_that_success(
    with_a_reader: House,
) -> None:
    house = with_a_reader
    house.run()
    house.broken["numbers"] = UserError("two is too many")
    house.run_and_fail(numbers=Numbers(first=2))
    assert house.calls == ["numbers", "reading"]
    assert read(house) == ""
    house.steps = house.steps[1:2]
    with pytest.raises(UserError, match="'numbers', which failed \\(two is too many"):
        house.run(numbers=Numbers(first=2))


def test_back_at_the_old_settings_the_old_result_is_found(with_a_reader: House) -> None:
    house = with_a_reader
    house.run()
    house.broken["numbers"] = UserError("two is too many")
    house.run_and_fail(numbers=Numbers(first=2))
    assert house.run() == ["reading"]
    assert read(house) == "letters numbers"


def test_a_step_alone_ends_with_its_own_line_and_status(house: House) -> None:
    house.steps = house.steps[:1]
    house.broken["numbers"] = UserError("no numbers")
    failed = house.run_and_fail()
    assert (failed.status, str(failed)) == (2, "no numbers")
    house.broken["numbers"] = RuntimeError("a mistake")
    failed = house.run_and_fail()
    assert failed.status == 1
    assert str(failed).startswith("internal error in step numbers: RuntimeError: a mistake; the ")
    assert str(failed).endswith("errors/numbers.txt")


def test_several_failures_are_counted_and_the_errors_named(with_a_reader: House) -> None:
    house = with_a_reader
    house.run()
    house.broken = {"letters": UserError("no letters"), "numbers": KeyError(3)}
    failed = house.run_and_fail(force=("numbers", "letters"))
    assert "internal error in step numbers: KeyError: 3" in str(failed)
    house.steps = [replace(step, needs=()) for step in house.steps]
    failed = house.run_and_fail()
    assert failed.status == 1
    assert str(failed).startswith("2 steps failed: numbers, letters; ")
    assert str(failed).endswith("errors says why")


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "No space left on device"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_ctrl_c_a_full_disk_and_a_closed_pipe_end_the_run_at_once(
    with_a_reader: House, error: BaseException
) -> None:
    house = with_a_reader
    house.broken["numbers"] = error
    with pytest.raises(type(error)):
        house.run()
    assert house.calls == ["numbers"]
    assert read_failure(house.paths, "numbers") is None


class PanicException(BaseException):
    """PyO3 raises a panic in Rust as a BaseException that is not an Exception."""


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), PanicException("lost")])
def test_what_leaves_python_costs_its_step_alone(
    with_a_reader: House, error: BaseException
) -> None:
    house = with_a_reader
    house.broken["numbers"] = error
    failed = house.run_and_fail()
    assert failed.status == 1
    assert house.calls == ["numbers", "reading"]
    assert f"{type(error).__name__}: {error}" in str(failed)


def test_an_error_that_stands_for_ctrl_c_ends_the_run(
    with_a_reader: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may turn the exception of Ctrl-C into one of its own."""
    house = with_a_reader
    house.broken["numbers"] = RuntimeError("import failed")
    monkeypatch.setattr(Interrupts, "seen", True)
    with pytest.raises(KeyboardInterrupt):
        house.run()
    assert house.calls == ["numbers"]


def test_needs_come_before_in_the_table_and_the_report_needs_nothing() -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert {*step.needs, *step.uses} <= seen, step.name
        seen.add(step.name)
    assert STEPS[-1].name == "report"
    assert STEPS[-1].needs == ()
    assert set(STEPS[-1].uses) == seen - {"report"}
