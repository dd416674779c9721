"""A step runs if its settings, code or inputs have changed, or if its outputs were changed or
removed, and not otherwise.
"""

import errno
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from data_pipeline.executors.document_building import DocumentSettings
from lm_core.artifact_paths import RunPaths
from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_course.interrupts import Interrupts
from lm_course.pipeline import recipe_runner
from lm_course.pipeline.plan import plan, steps_to_run
from lm_course.pipeline.recipe_runner import run_recipe
from lm_course.pipeline.step import Step, StepContext
from lm_course.pipeline.step_catalogue import load_steps
from lm_course.pipeline.step_failures import StepsFailed, read_failure
from lm_course.pipeline.step_records import fingerprint, read_record
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

    @property
    def sections(self) -> dict[str, Settings]:
        return {"numbers": self.numbers, "letters": self.letters}


class TwoSteps:
    """Two steps: `numbers` writes a file, and `letters` reads it. `calls` says which ones ran."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = RunPaths(root / "runs" / "test")
        self.calls: list[str] = []
        self.code = {"package_a": "1", "package_b": "1"}
        self.fail = False
        self.broken: dict[str, BaseException] = {}  # step -> what it raises
        self.said = ""
        self.only: list[str] | None = None
        monkeypatch.setattr(
            recipe_runner, "code_hashes", lambda module: {module: self.code[module]}
        )
        self.steps = [
            self.step("numbers", "package_a", reads=()),
            self.step("letters", "package_b", reads=("numbers",)),
        ]

    def step(self, name: str, package: str, reads: tuple[str, ...]) -> Step:
        def run(context: StepContext) -> dict[str, Any]:
            self.calls.append(name)
            if self.fail:
                raise KeyboardInterrupt
            if name in self.broken:
                raise self.broken[name]
            text = str(context.sections.get(name))
            context.output(name).write_text(text)
            return {"value": text}

        run.__module__ = package
        settings = {name: type(section)} if (section := SmallRecipe().sections.get(name)) else {}
        return Step(
            name, f"lm {name}", "", run, lambda s: s["value"], settings, reads=reads, writes=(name,)
        )

    def run(self, force: tuple[str, ...] = (), **sections: Settings) -> list[str]:
        self.calls.clear()
        recipe = SmallRecipe(**sections)
        output = io.StringIO()
        planned = plan(self.steps, recipe.sections, self.paths.root)
        steps = planned if self.only is None else steps_to_run(planned, self.only)
        try:
            run_recipe(recipe, self.paths, steps, force, console=Console(file=output))
        finally:
            self.said = output.getvalue()
        return list(self.calls)

    def run_and_fail(self, force: tuple[str, ...] = (), **sections: Settings) -> StepsFailed:
        with pytest.raises(StepsFailed) as caught:
            self.run(force, **sections)
        return caught.value


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoSteps:
    return TwoSteps(tmp_path, monkeypatch)


def test_the_second_time_nothing_runs(runner: TwoSteps) -> None:
    assert runner.run() == ["numbers", "letters"]
    assert runner.run() == []


def test_a_changed_setting_runs_its_step_and_those_that_read_its_output(runner: TwoSteps) -> None:
    runner.run()
    assert runner.run(numbers=Numbers(first=2)) == ["numbers", "letters"]
    assert runner.run(numbers=Numbers(first=2), letters=Letters(word="b")) == ["letters"]


def test_the_digit_rule_is_a_setting_that_decides_the_tokenizer(tmp_path: Path) -> None:
    step = replace(load_steps()["tokenizer"], reads=(), reads_sections=())
    found = set()
    for digits in (None, 0, 1, 2, 3):
        sections = {"tokenizer": TokenizerSettings(pattern="gpt4", max_digits=digits)}
        (planned,) = plan([step], sections, tmp_path)
        recipe = SimpleNamespace(sections=sections)
        found.add(fingerprint(planned, recipe, RunPaths(tmp_path), code={}))
    assert len(found) == 5


def test_an_output_that_comes_out_the_same_stops_the_chain(runner: TwoSteps) -> None:
    runner.run()
    assert runner.run(force=("numbers",)) == ["numbers"]


def test_a_changed_classifier_or_evaluation_set_runs_the_step_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = replace(load_steps()["documents"], reads=(), reads_sections=())
    names = ("quality.bin", "toxic.bin", "exam.jsonl", "language.ftz")
    quality, toxic, exam, language = files = [tmp_path / name for name in names]
    monkeypatch.setenv("LM_TOXIC_MODEL", str(toxic))
    monkeypatch.setenv("LM_LANGUAGE_MODEL", str(language))
    settings = {
        "quality_classifier": {"model": str(quality)},
        "harmful": {"kinds": ["toxic"]},
        "decontamination": {"evaluation_sets": {"exam": str(exam)}},
    }
    recipe = SimpleNamespace(sections={"documents": DocumentSettings.model_validate(settings)})

    def now() -> str:
        (planned,) = plan([step], recipe.sections, tmp_path)
        return fingerprint(planned, recipe, RunPaths(tmp_path), code={})

    found = [now()]  # without any of the files: the step will say which is missing
    for content in ("one", "two"):
        for file in files:
            file.write_text(content)
            found.append(now())
    assert len(set(found)) == len(found) == 9
    quality.write_text("two")
    assert now() == found[-1], "the contents decide, not the time"


def test_changed_code_runs_the_step(runner: TwoSteps) -> None:
    runner.run()
    runner.code["package_b"] = "2"
    assert runner.run() == ["letters"]


def test_an_output_that_was_removed_or_edited_is_made_again(runner: TwoSteps) -> None:
    runner.run()
    (runner.paths.root / "numbers").unlink()
    assert runner.run() == ["numbers"]
    (runner.paths.root / "letters").write_text("edited")
    assert runner.run() == ["letters"]


def test_force_removes_the_old_output_first(runner: TwoSteps) -> None:
    runner.run()
    runner.fail = True
    with pytest.raises(KeyboardInterrupt):
        runner.run(force=("letters",))
    assert not (runner.paths.root / "letters").exists()
    assert (runner.paths.root / "numbers").exists()


def test_a_touched_but_equal_output_is_still_up_to_date(runner: TwoSteps) -> None:
    runner.run()
    path = runner.paths.root / "numbers"
    path.write_text(path.read_text())
    assert runner.run() == []


def test_an_interrupted_step_runs_again_and_leaves_no_record(runner: TwoSteps) -> None:
    runner.fail = True
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert read_record(runner.paths, "numbers") is None
    runner.fail = False
    assert runner.run() == ["numbers", "letters"]


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"step": 1}'])
def test_a_damaged_record_is_not_a_record(runner: TwoSteps, damaged: bytes) -> None:
    runner.run()
    runner.paths.step_record("numbers").write_bytes(damaged)
    assert read_record(runner.paths, "numbers") is None
    assert runner.run() == ["numbers"]


def test_a_step_without_its_input_says_what_to_run(runner: TwoSteps) -> None:
    runner.only = ["letters"]
    with pytest.raises(ValueError, match="lm letters needs the step 'numbers', which has not been"):
        runner.run()


def test_a_step_refuses_an_input_that_is_not_what_its_step_finished_with(runner: TwoSteps) -> None:
    runner.run()
    (runner.paths.root / "numbers").write_text("half of another run")
    runner.only = ["letters"]
    with pytest.raises(ValueError, match="files of the step 'numbers' are not those"):
        runner.run()


def test_force_leaves_what_a_person_brought(runner: TwoSteps) -> None:
    runner.run()
    own = runner.paths.root / "numbers"
    runner.steps[0] = replace(
        runner.steps[0],
        users_own=lambda sections: {"numbers": (own,)},
        run=lambda context: {"value": ""},
    )
    runner.code[__name__] = "1"
    before = own.read_text()
    runner.run(force=("numbers",))
    assert own.read_text() == before


def test_the_resolved_settings_are_saved(runner: TwoSteps) -> None:
    runner.run(numbers=Numbers(first=7))
    assert '"first": 7' in runner.paths.settings.read_text()


@pytest.fixture
def with_a_reader(runner: TwoSteps) -> TwoSteps:
    """Add a third step, `reading`, which may read what the others wrote but does not need it."""

    def run(context: StepContext) -> dict[str, Any]:
        runner.calls.append("reading")
        context.output("reading").write_text(" ".join(sorted(context.records)))
        return {"value": "read"}

    run.__module__ = "package_b"
    step = runner.step("reading", "package_b", reads=())
    runner.steps.append(replace(step, run=run, may_read=("numbers", "letters")))
    return runner


def read(runner: TwoSteps) -> str:
    return (runner.paths.root / "reading").read_text()


def test_a_failed_step_costs_those_that_need_it_and_no_other(with_a_reader: TwoSteps) -> None:
    runner = with_a_reader
    runner.broken["numbers"] = UserError("no numbers in [this] file")
    failed = runner.run_and_fail()
    assert runner.calls == ["numbers", "reading"]
    assert (failed.status, str(failed)) == (
        1,
        "step numbers failed: no numbers in [this] file; not run because of that: letters",
    )
    assert runner.said.splitlines()[:2] == [
        "1/3 numbers  failed: no numbers in [this] file",
        "2/3 letters  not run: it needs numbers, which failed",
    ]
    assert runner.said.splitlines()[2].startswith("3/3 reading  read  0:00")
    assert runner.said.splitlines()[3].startswith("test: 2 of 3 steps have no result, after 0:00")
    assert read(runner) == ""
    assert read_record(runner.paths, "numbers") is None


def test_what_was_not_run_names_the_step_that_failed_not_those_between(runner: TwoSteps) -> None:
    runner.steps.append(runner.step("last", "package_b", ("letters",)))
    runner.broken["numbers"] = UserError("no numbers")
    failed = runner.run_and_fail()
    assert "3/3 last     not run: it needs numbers, which failed" in runner.said.splitlines()
    assert str(failed).endswith("not run because of that: letters, last")


def test_the_notes_of_a_failure_vanish_when_the_step_ends_well(with_a_reader: TwoSteps) -> None:
    runner = with_a_reader
    runner.broken["numbers"] = RuntimeError("a mistake")
    runner.run_and_fail()
    kept = runner.paths.root / "errors" / "numbers.txt"
    assert "RuntimeError: a mistake" in kept.read_text()
    assert "Traceback (most recent call last)" in kept.read_text()
    runner.broken.clear()
    assert runner.run() == ["numbers", "letters", "reading"]
    assert read(runner) == "letters numbers"
    assert not kept.parent.exists()
    assert [read_failure(runner.paths, step.name) for step in runner.steps] == [None] * 3
    assert runner.run() == []


def test_a_failure_again_is_not_up_to_date(with_a_reader: TwoSteps) -> None:
    runner = with_a_reader
    runner.broken["letters"] = UserError("no letters")
    runner.run_and_fail()
    runner.run_and_fail()
    assert runner.calls == ["letters"]  # the reader has already reported this failure
    runner.broken["letters"] = UserError("another reason")
    runner.run_and_fail()
    assert runner.calls == ["letters", "reading"]


def test_a_step_that_fails_after_a_success_does_not_pass_for_that_success(
    with_a_reader: TwoSteps,
) -> None:
    runner = with_a_reader
    runner.run()
    runner.broken["numbers"] = UserError("two is too many")
    runner.run_and_fail(numbers=Numbers(first=2))
    assert runner.calls == ["numbers", "reading"]
    assert read(runner) == ""
    runner.only = ["letters"]
    with pytest.raises(UserError, match="'numbers', which failed \\(two is too many"):
        runner.run(numbers=Numbers(first=2))


def test_back_at_the_old_settings_the_old_result_is_found(with_a_reader: TwoSteps) -> None:
    runner = with_a_reader
    runner.run()
    runner.broken["numbers"] = UserError("two is too many")
    runner.run_and_fail(numbers=Numbers(first=2))
    assert runner.run() == ["reading"]
    assert read(runner) == "letters numbers"


def test_a_step_alone_ends_with_its_own_line_and_status(runner: TwoSteps) -> None:
    runner.only = ["numbers"]
    runner.broken["numbers"] = UserError("no numbers")
    failed = runner.run_and_fail()
    assert (failed.status, str(failed)) == (2, "no numbers")
    runner.broken["numbers"] = RuntimeError("a mistake")
    failed = runner.run_and_fail()
    assert failed.status == 1
    assert str(failed).startswith("internal error in step numbers: RuntimeError: a mistake; the ")
    assert str(failed).endswith("errors/numbers.txt")


def test_several_failures_are_counted_and_the_errors_named(with_a_reader: TwoSteps) -> None:
    runner = with_a_reader
    runner.run()
    runner.broken = {"letters": UserError("no letters"), "numbers": KeyError(3)}
    failed = runner.run_and_fail(force=("numbers", "letters"))
    assert "internal error in step numbers: KeyError: 3" in str(failed)
    runner.steps = [replace(step, reads=()) for step in runner.steps]
    failed = runner.run_and_fail()
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
    with_a_reader: TwoSteps, error: BaseException
) -> None:
    runner = with_a_reader
    runner.broken["numbers"] = error
    with pytest.raises(type(error)):
        runner.run()
    assert runner.calls == ["numbers"]
    assert read_failure(runner.paths, "numbers") is None


class PanicException(BaseException):
    """PyO3 raises a panic in Rust as a BaseException that is not an Exception."""


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), PanicException("lost")])
def test_what_leaves_python_costs_its_step_alone(
    with_a_reader: TwoSteps, error: BaseException
) -> None:
    runner = with_a_reader
    runner.broken["numbers"] = error
    failed = runner.run_and_fail()
    assert failed.status == 1
    assert runner.calls == ["numbers", "reading"]
    assert f"{type(error).__name__}: {error}" in str(failed)


def test_an_error_that_stands_for_ctrl_c_ends_the_run(
    with_a_reader: TwoSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may turn the exception of Ctrl-C into another one."""
    runner = with_a_reader
    runner.broken["numbers"] = RuntimeError("import failed")
    monkeypatch.setattr(Interrupts, "seen", True)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert runner.calls == ["numbers"]


def test_code_is_hashed_once_and_before_the_first_step_runs(
    runner: TwoSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been imported by then: what is edited during the run is not what runs."""
    hashed = []

    def code_hashes(module: str) -> dict[str, str]:
        hashed.append((module, list(runner.calls)))
        return {module: runner.code[module]}

    monkeypatch.setattr(recipe_runner, "code_hashes", code_hashes)
    runner.run()
    assert hashed == [("package_a", []), ("package_b", [])]
    hashed.clear()
    assert runner.run() == []
    assert hashed == [("package_a", []), ("package_b", [])]


def test_code_that_cannot_be_read_costs_its_step(
    with_a_reader: TwoSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def code_hashes(module: str) -> dict[str, str]:
        if module == "package_b":
            raise UserError("b.py: line 3: not valid Python")
        return {module: "same"}

    monkeypatch.setattr(recipe_runner, "code_hashes", code_hashes)
    with pytest.raises(StepsFailed, match="2 steps failed: letters, reading"):
        with_a_reader.run()
    assert with_a_reader.calls == ["numbers"]
    assert "letters  failed: b.py: line 3: not valid Python" in with_a_reader.said
