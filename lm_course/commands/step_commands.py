"""`lm pretrain` and the other commands that run one step of a recipe, and the options that commands
on recipes share.

What this leaves out: the steps themselves, which are imported inside the functions, after `--impl`
has set LM_STAND_INS.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from lm_core.artifact_paths import RunPaths
from lm_core.stand_ins import STAND_INS_VARIABLE, stand_ins_folder
from lm_core.user_error import UserError
from lm_course.interrupts import Interrupts
from lm_course.locations import WORKSPACE, in_home, recipe_file

DEMO = Path("recipes/demo_cpu.toml")

RecipePath = Annotated[Path, typer.Argument(help="The TOML file with the run's settings.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting.")
]
Force = Annotated[bool, typer.Option("--force", help="Run the step even if it is up to date.")]
Wandb = Annotated[
    bool, typer.Option("--wandb", help="Also log to wandb (offline if it has no key).")
]
Implementation = Annotated[
    str | None,
    typer.Option(
        "--impl",
        metavar="FOLDER",
        help="Use your files in FOLDER (such as workspace) instead of the project's.",
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth", metavar="N", help="Derive what the recipe does not give from N layers."
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="PATH",
        help="Read the pages of this file, folder or URL of an object store (WARC, HTML, parquet, "
        "JSON lines, text), and of no other. May be repeated.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="URL", help="Copy the documents to an object store (s3://...) as well."
    ),
]
FindLearningRate = Annotated[
    bool,
    typer.Option(
        "--find-learning-rate",
        help="Try rising rates for up to 200 steps, and suggest one; no model is kept.",
    ),
]


def set_stand_ins(folder: str | None) -> None:
    """Set LM_STAND_INS for this process and its children. Call it before any stage is imported."""
    if folder is None:
        return
    if folder == "reference":
        os.environ.pop(STAND_INS_VARIABLE, None)
        return
    chosen = in_home(WORKSPACE) if folder == WORKSPACE else Path(folder)
    os.environ[STAND_INS_VARIABLE] = str(chosen.absolute())
    stand_ins_folder()


def run_named_steps(
    recipe_path: Path,
    names: list[str] | None,
    overrides: list[str] | None,
    force: list[str],
    wandb: bool,
    implementation: str | None,
) -> RunPaths:
    """Run some steps of a recipe, or all of them when `names` is None. Return the run's paths."""
    set_stand_ins(implementation)
    from lm_core.settings import load_settings
    from lm_course.pipeline.plan import plan, steps_to_run
    from lm_course.pipeline.recipe import Recipe
    from lm_course.pipeline.recipe_runner import run_recipe
    from lm_course.pipeline.run_lock import run_lock
    from lm_course.pipeline.step_catalogue import named
    from lm_course.pipeline.wandb_mirror import wandb_mirror

    Interrupts.raise_if_seen()
    recipe = load_settings(Recipe, recipe_file(recipe_path), overrides)
    paths = RunPaths(in_home(recipe.run.folder) / recipe.run.name)
    planned = plan([named(name) for name in recipe.run.steps], recipe.sections, paths.root)
    steps_to_run(planned, force)
    steps = planned if names is None else steps_to_run(planned, names)
    with (
        run_lock(paths.root, "--set run.name=NAME"),
        wandb_mirror(wandb, recipe, paths) as mirror,
    ):
        run_recipe(recipe, paths, steps, force, mirror)
    return paths


def _run_one(
    name: str, recipe: Path, overrides: list[str] | None, force: bool, wandb: bool, impl: str | None
) -> RunPaths:
    return run_named_steps(recipe, [name], overrides, [name] if force else [], wandb, impl)


def add_step_command(group: typer.Typer, command: str, step: str, explanation: str) -> None:
    """Add a command that runs one step. They differ in name and help, but some have options of
    their own.
    """
    if step in OWN_OPTIONS:
        group.command(command, help=explanation)(OWN_OPTIONS[step])
        return

    def step_command(
        recipe: RecipePath = DEMO,
        overrides: Overrides = None,
        force: Force = False,
        wandb: Wandb = False,
        implementation: Implementation = None,
    ) -> None:
        _run_one(step, recipe, overrides, force, wandb, implementation)

    group.command(command, help=explanation)(step_command)


def documents(
    recipe: RecipePath = DEMO,
    sources: Sources = None,
    target: Target = None,
    overrides: Overrides = None,
    force: Force = False,
    wandb: Wandb = False,
    implementation: Implementation = None,
) -> None:
    """Run the step `documents`, on the recipe's pages or on those of `sources`, and print the
    funnel. Copy the documents to `target`.
    """
    set_stand_ins(implementation)  # before the first import of a stage, below
    for path in sources or []:
        if "://" not in path and not os.path.lexists(path):
            raise UserError(f"--from {path}: no such file or folder")
        if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises if it may not look)
            from data_pipeline.sources.page_files import page_files

            page_files([path])  # names a folder without a page before any step
    changes = list(overrides or [])
    if sources:  # in place of those of the recipe, under whichever name it gives them
        given = [path if "://" in path else str(Path(path)) for path in sources]
        paths = json.dumps(given, ensure_ascii=False)
        changes += ["pages.warc_files=[]", f"pages.paths={paths}"]
    if target is None:
        print_funnel(_run_one("documents", recipe, changes, force, wandb, implementation))
        return
    from data_pipeline.object_stores.upload import check_target, upload_folder

    check_target(target)
    paths = _run_one("documents", recipe, changes, force, wandb, implementation)
    print_funnel(paths)
    size = upload_folder(paths.documents, target)
    print(f"{target}: {size / 1e6:,.1f} MB written")


def print_funnel(paths: RunPaths) -> None:
    """Print what each step of the build kept, and why the other documents were dropped."""
    from lm_core.formats.documents import read_counts
    from lm_course.locations import shown
    from lm_course.pipeline.step_records import read_record
    from lm_course.report.funnel_table import funnel_lines

    record = read_record(paths, "documents") or {"summary": {}}
    seconds = record["summary"].get("step_seconds", {})  # missing in runs of before November 2026
    print("\n".join(funnel_lines(read_counts(paths.documents), seconds)))
    print(f"written: {shown(paths.documents)}")


def pretrain(
    recipe: RecipePath = DEMO,
    overrides: Overrides = None,
    depth: Depth = None,
    find_learning_rate: FindLearningRate = False,
    force: Force = False,
    wandb: Wandb = False,
    implementation: Implementation = None,
) -> None:
    """Run the step `pretrain`, or look for its learning rate."""
    changes = [*(overrides or []), *([] if depth is None else [f"pretrain.depth={depth}"])]
    if not find_learning_rate:
        _run_one("pretrain", recipe, changes, force, wandb, implementation)
        return
    if force or wandb:
        given = "--force" if force else "--wandb"
        raise UserError(f"--find-learning-rate keeps no model and no metrics; remove {given}")
    set_stand_ins(implementation)
    from lm_course.model_steps.rate_finder import find_rate

    find_rate(recipe_file(recipe), changes)


OWN_OPTIONS = {"documents": documents, "pretrain": pretrain}
