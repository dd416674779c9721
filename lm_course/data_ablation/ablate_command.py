"""`lm data ablate`: leave out one filter at a time, train the same model, compare.

What this leaves out: the documents (variant_shards.py), the training (variant_runs.py) and the
figures (ablation_table.py).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lm_core.user_error import UserError
from lm_course.commands.step_commands import (
    DEMO,
    Implementation,
    Overrides,
    RecipePath,
    set_stand_ins,
)

if TYPE_CHECKING:
    from lm_core.artifact_paths import RunPaths
    from lm_core.settings import Settings
    from lm_course.data_ablation.left_out_filters import Variant
    from lm_course.data_ablation.variant_shards import VariantShards

FOLDER = "data_ablation"


def register(app: typer.Typer) -> None:
    """Add the command to the group `data`."""
    app.command("ablate")(ablate)


LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-out",
        metavar="FILTER",
        help="A filter by its name in counts.json, a rule set, several joined by +, or all. "
        "May be repeated; by default each filter that is on.",
    ),
]
Pages = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="PATH",
        help="Read the pages of this file or folder in place of the recipe's. May be repeated.",
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs of each variant.")]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="Updates of each run; by default the recipe's."),
]
HeldOut = Annotated[
    float,
    typer.Option(
        "--held-out",
        min=0.001,
        max=0.9,
        help="Share of the pages that are held out, to measure on.",
    ),
]


def ablate(
    recipe: RecipePath = DEMO,
    leave_out: LeaveOut = None,
    sources: Pages = None,
    seeds: Seeds = 3,
    steps: Steps = None,
    held_out: HeldOut = 0.05,
    overrides: Overrides = None,
    implementation: Implementation = None,
) -> None:
    """Measure what each filter of `lm data build` does for a model, by leaving it out.

    The model of the recipe is trained on what is left, for equally many tokens, with several seeds.
    """
    set_stand_ins(implementation)
    from lm_core.artifact_paths import RunPaths
    from lm_core.settings import load_settings
    from lm_course.data_ablation.left_out_filters import variants_of
    from lm_course.interrupts import Interrupts
    from lm_course.locations import in_home, recipe_file
    from lm_course.pipeline.recipe import Recipe
    from lm_course.pipeline.run_lock import run_lock

    Interrupts.raise_if_seen()
    changes = list(overrides or [])
    if sources:
        changes += ["pages.warc_files=[]", f"pages.paths={json.dumps(sources, ensure_ascii=False)}"]
    if steps is not None:
        changes.append(f"pretrain.training.steps={steps}")
    settings = load_settings(Recipe, recipe_file(recipe), changes)
    if settings.pretrain is None:
        raise UserError(f"{recipe}: [pretrain] is missing; it says which model to train")
    if settings.tokenizer.kind != "bpe":
        raise UserError(
            f'{recipe}: tokenizer.kind is "{settings.tokenizer.kind}", which has no token for a '
            'character that only held-out pages have; set tokenizer.kind="bpe"'
        )
    variants = variants_of(settings.documents, leave_out)
    paths = RunPaths(in_home(settings.run.folder) / settings.run.name)
    with run_lock(paths.root, "--set run.name=NAME"):
        made = _shards(settings, paths, recipe, held_out)
        _run_and_show(made, variants, settings, seeds)


def _shards(
    settings: "Settings", paths: "RunPaths", recipe: Path, held_out: float
) -> "VariantShards":
    """Find the pages."""
    from data_pipeline.sources.page_files import page_files
    from lm_course.data_ablation.variant_shards import MAX_HELD_OUT_TOKENS, VariantShards

    given = settings.pages
    if given.own_urls:
        raise UserError(
            f"{given.own_urls[0]}: `lm data ablate` reads the pages several times, and not from an "
            "object store; copy them here"
        )
    if not given.own_paths and not paths.pages.is_file():
        raise UserError(
            f"{paths.pages}: no pages there; make them with `lm data collect {recipe}`, or name "
            "your own with --from PATH"
        )
    for path in given.own_paths:
        if not os.path.lexists(path):
            raise UserError(f"{path}: no such file or folder")
    files = page_files(given.own_paths or [paths.pages])
    return VariantShards(
        folder=paths.root / FOLDER,
        files=files,
        keys=given,
        settings=settings.documents,
        tokenizer=settings.tokenizer,
        share=held_out,
        max_held_out_tokens=settings.pretrain.validation_tokens or MAX_HELD_OUT_TOKENS,
    )


def _run_and_show(
    made: "VariantShards", variants: Sequence["Variant"], settings: "Settings", seeds: int
) -> None:
    """Make the shards, train, and write and print the result."""
    from lm_core.artifact_paths import atomic_file, write_json
    from lm_course.data_ablation import ablation_table
    from lm_course.data_ablation.variant_runs import train_variants
    from lm_course.locations import shown

    shards = made.make(variants)
    runs = train_variants(made, variants, settings.pretrain, seeds)
    result = _result(made, variants, shards, runs, settings.pretrain)
    write_json(made.folder / "ablation.json", result)
    rows = ablation_table.table_rows(result["variants"])
    with atomic_file(made.folder / "ablation.md") as file:
        text = f"{ablation_table.markdown_table(rows)}\n{_sets(result)}\n\n{ablation_table.NOTES}\n"
        file.write(text.encode())
    picture = made.folder / "ablation.png"
    ablation_table.draw_differences(result["variants"], picture)
    _print_tables(rows, result)
    print(f"{shown(picture)}, ablation.json and ablation.md beside it")


def _result(
    made: "VariantShards",
    variants: Sequence["Variant"],
    shards: Sequence[dict[str, Any]],
    runs: Sequence[Sequence[dict[str, float]]],
    pretrain: Any,
) -> dict[str, Any]:
    """Return what ablation.json holds."""
    from data_pipeline.shard_writing import TRAIN
    from lm_course.data_ablation.ablation_table import figures_of
    from lm_course.data_ablation.variant_runs import SETS

    training = pretrain.training
    tokens = training.steps * training.batch_size * pretrain.model.context_length
    rows = []
    for variant, made_of, own_runs in zip(variants, shards, runs, strict=True):
        train = made_of["splits"][TRAIN]
        rows.append(
            {
                "left_out": variant.left_out,
                **train,
                "epochs": tokens / train["tokens"],
                "runs": own_runs,
                "steps": made_of["steps"],
                **figures_of(own_runs, runs[0]),
            }
        )
    sets = {name: shards[0]["splits"][split] for name, split in SETS.items()}
    return {
        "tokens_of_a_run": tokens,
        "held_out_share": made.share,
        "held_out": sets,
        "near_copies_of_held_out_pages": len(made.held_out.copies),
        "variants": rows,
    }


def _sets(result: dict[str, Any]) -> str:
    """Return a sentence on the held-out sets."""
    sets = "; ".join(
        f"{name} {size['documents']:,} documents, {size['bytes'] / 1e6:.2f} MB"
        for name, size in result["held_out"].items()
    )
    return (
        f"Each run reads {result['tokens_of_a_run']:,} tokens. Held out: {sets}; "
        f"{result['near_copies_of_held_out_pages']:,} pages are near copies of held-out pages and "
        "are not used."
    )


def _print_tables(rows: Sequence[Sequence[str]], result: dict[str, Any]) -> None:
    """Print the columns of the table in three parts, which fit a narrow terminal."""
    from rich.table import Table

    from lm_course.commands.plain_console import plain_console
    from lm_course.data_ablation.ablation_table import COLUMNS, NOTES

    console = plain_console()
    for columns in (range(1, 4), range(4, 7), range(7, 10)):
        table = Table(COLUMNS[0], box=None, pad_edge=False)
        for number in columns:
            table.add_column(COLUMNS[number], justify="right", no_wrap=True)
        for row in rows:
            table.add_row(row[0], *(row[number] for number in columns))
        console.print(table)
        console.print()
    console.print(_sets(result))
    console.print(NOTES, style="dim")
