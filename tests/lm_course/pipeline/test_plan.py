"""The steps that each step reads from, and the orders that are refused before anything runs."""

from pathlib import Path

import pytest

from lm_core.settings import load_settings
from lm_core.user_error import UserError
from lm_course.pipeline.plan import PlannedStep, plan, steps_to_run
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.step import Step
from lm_course.pipeline.step_catalogue import WHOLE_PATH, load_steps

RECIPE = Path(__file__).parents[3] / "recipes/demo_cpu.toml"
ROOT = Path("runs/test")


def step(name: str, reads: tuple[str, ...] = (), writes: tuple[str, ...] = (), **more) -> Step:
    def nothing(context):
        return {}

    return Step(name, f"lm {name}", "", nothing, lambda s: "", reads=reads, writes=writes, **more)


MAKE = step("make", writes=("documents",))
FILTER = step("filter", ("documents",), ("documents",))
READ = step("read", ("documents",), ("shards",))
LOOK = step("look", ("shards",), may_read=("documents", "answers"))
ALL = step("all", reads_all=True)


def planned_of(*steps: Step) -> dict[str, PlannedStep]:
    return {one.name: one for one in plan(steps, {}, ROOT)}


def demo(overrides: list[str]) -> list[PlannedStep]:
    recipe = load_settings(Recipe, RECIPE, overrides)
    return plan([load_steps()[name] for name in recipe.run.steps], recipe.sections, ROOT)


def names(overrides: list[str], *wanted: str) -> list[str]:
    return [one.name for one in steps_to_run(demo(overrides), wanted)]


def test_without_a_filter_each_reads_what_was_made() -> None:
    found = planned_of(MAKE, READ, LOOK, ALL)
    assert (found["read"].needs, found["read"].uses) == (["make"], [])
    assert (found["look"].needs, found["look"].uses) == (["read"], ["make"])
    assert found["read"].inputs == {"documents": (ROOT / "documents",)}
    assert found["all"].uses == ["make", "read", "look"]


def test_a_filter_in_between_is_what_later_steps_read() -> None:
    found = planned_of(MAKE, FILTER, READ, LOOK, ALL)
    assert found["filter"].inputs == {"documents": (ROOT / "documents",)}
    assert found["filter"].outputs == {"documents": (ROOT / "filter.documents",)}
    assert found["read"].inputs == {"documents": (ROOT / "filter.documents",)}
    assert found["read"].needs == ["filter"]
    assert found["look"].uses == ["filter"]
    assert found["all"].uses == ["make", "filter", "read", "look"]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([READ, MAKE], "'read' reads documents, which no step before it writes"),
        ([MAKE, READ, READ], "'read' is listed twice"),
        ([MAKE, READ, FILTER, ALL], "'filter' writes documents again, but no step after it reads"),
    ],
)
def test_an_order_that_cannot_work_is_refused(steps: list[Step], words: str) -> None:
    with pytest.raises(UserError, match=f"run.steps: {words}"):
        plan(steps, {}, ROOT)


def test_the_demo_is_the_whole_path_and_the_report_needs_none() -> None:
    found = demo([])
    assert [one.name for one in found] == list(WHOLE_PATH)
    assert list(load_steps())[: len(WHOLE_PATH)] == list(WHOLE_PATH)  # then the optional ones
    assert (found[-1].name, found[-1].needs, found[-1].uses) == (
        "report", [], list(WHOLE_PATH[:-1]),
    )  # fmt: skip
    assert {one.name: one.needs for one in found}["evaluation"] == [
        "tokenizer",
        "shards",
        "pretrain",
    ]


def test_a_step_on_the_users_own_pages_looks_at_them_first() -> None:
    own = ['pages.warc_files=["mine.warc.gz"]']
    assert names(own, "documents") == ["collect", "documents"]
    assert names(own, "collect", "documents") == ["collect", "documents"]
    assert names(own, "tokenizer") == ["tokenizer"], "it does not read them"
    assert names([], "documents") == ["documents"], "collecting takes work: it must be asked for"
    assert demo(own)[0].outputs == {"pages": (Path("mine.warc.gz"),)}
    assert demo(['pages.paths="crawl/"'])[0].outputs == {"pages": (Path("crawl"),)}


def test_an_unknown_step_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no step 'dokuments' in this recipe; its steps are col"):
        names([], "dokuments")
    with pytest.raises(UserError, match="no step 'build'; the steps are collect, instr"):
        demo(['run.steps=["build"]'])
