"""Steps run when their settings, code or inputs changed, when their outputs were touched, and not
otherwise.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lm_core.artifact_paths import RunPaths
from lm_core.settings import Settings
from lm_course import recipe_runner
from lm_course.recipe_runner import Step, StepContext, fingerprint, read_record, run_recipe
from lm_course.steps import STEPS
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
            section = getattr(context.recipe, name)
            (context.paths.root / name).write_text(str(section))
            return {"value": str(section)}

        outputs = lambda paths, recipe: [paths.root / name]  # noqa: E731
        describe = lambda summary: summary["value"]  # noqa: E731
        return Step(name, f"lm {name}", (name,), (package,), needs, outputs, run, describe)

    def run(self, force: tuple[str, ...] = (), **sections: Settings) -> list[str]:
        self.calls.clear()
        recipe = SmallRecipe(**sections)
        output = SimpleNamespace(write=lambda text: None, flush=lambda: None)
        console = Console(file=output)
        run_recipe(recipe, self.paths, self.steps, force, console=console)
        return list(self.calls)


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
