"""`lm data get`, `lm data verdicts` and `lm data classifier`: data sets to download, what each
quality rule drops, and a quality filter of one's own.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lm_core.user_error import UserError
from lm_course.commands.step_commands import DEMO, Overrides, RecipePath


def print_data_sets() -> None:
    """Print the registered data sets, and where those that are there are."""
    from rich.console import Console
    from rich.padding import Padding

    from data_pipeline.downloads.data_set_files import is_downloaded
    from data_pipeline.downloads.registered_sets import DATA_SETS, data_set_named
    from lm_course.locations import data_folder, shown

    console = Console(highlight=False)
    editions = sorted(path.name for path in data_folder().glob("wikipedia_*") if path.is_dir())
    wikipedia = [data_set_named(name) for name in editions or ["wikipedia_ko"]]
    for data_set in [*DATA_SETS.values(), *wikipedia]:
        is_there = is_downloaded(data_set, data_folder())
        where = shown(data_folder() / data_set.name) if is_there else "not downloaded"
        console.print(f"[bold]{data_set.name}[/bold]: {where}")
        console.print(Padding(f"{data_set.title}; {data_set.licence}", (0, 0, 0, 2)))
    console.print(
        "wikipedia_ and the code of another language gets its edition; a URL gets the file there.",
        style="dim",
    )


def get_data_set(name: str) -> None:
    """Download a data set, and print its files."""
    from data_pipeline.downloads.data_set_files import SUMS, fetch_data_set
    from data_pipeline.downloads.registered_sets import data_set_named
    from lm_course.locations import DATA_VARIABLE, data_folder, shown
    from lm_course.pipeline.run_lock import run_lock

    data_set = data_set_named(name)
    with run_lock(data_folder() / data_set.name, f"the environment variable {DATA_VARIABLE}"):
        fetched = fetch_data_set(data_set, data_folder())
    for path, was_there, checked in fetched:
        how = "was there" if was_there else "downloaded"
        sums = shown(path.with_name(SUMS))
        check = "checksum right" if checked else f"no checksum was known; recorded in {sums}"
        print(f"{shown(path)}: {path.stat().st_size / 1e6:,.1f} MB, {how}, {check}")
    uses = {
        "text": f"; in a recipe: --set text.dataset={name}",
        "pages": f"; `lm data build --from {shown(data_folder() / data_set.name)}` reads it",
    }
    print(f"licence: {data_set.licence}{uses.get(data_set.use, '')}")


def _as_overrides(values: dict[str, Any], prefix: str) -> list[str]:
    """Return the `--set` options, without "--set", that give these settings."""
    found = []
    for name, value in values.items():
        key = f"{prefix}.{name}"
        found += (
            _as_overrides(value, key) if isinstance(value, dict) else [f"{key}={json.dumps(value)}"]
        )
    return found


def print_verdicts(recipe: Path, overrides: list[str] | None) -> None:
    """Print how many pages each rule drops with the thresholds of the build, or with others."""
    from rich.table import Table

    from data_pipeline.rule_sets.verdict_files import VERDICTS_FILE, count_drops, read_settings
    from lm_core.artifact_paths import RunPaths
    from lm_core.settings import load_settings
    from lm_course.commands.plain_console import plain_console
    from lm_course.locations import in_home, recipe_file
    from lm_course.pipeline.recipe import Recipe

    settings = load_settings(Recipe, recipe_file(recipe), overrides)
    run = RunPaths(in_home(settings.run.folder) / settings.run.name)
    file = run.documents / VERDICTS_FILE
    if not file.is_file():
        raise UserError(
            f"{file}: no verdicts there; make them with `lm data build {recipe}` and the same --set"
        )
    built = _as_overrides(read_settings(file).model_dump(), "documents.quality")
    settings = load_settings(Recipe, recipe_file(recipe), [*built, *(overrides or [])])
    drops, kept = count_drops(file, settings.documents.quality)
    table = Table("rule", box=None, pad_edge=False)
    for column in ("break it", "dropped", "only by it"):
        table.add_column(column, justify="right")
    for rule, counts in drops.items():
        table.add_row(rule, *(f"{n:,}" for n in (counts.broken, counts.first, counts.alone)))
    console = plain_console()
    console.print(table)
    total = kept + sum(counts.first for counts in drops.values())
    console.print(f"{kept:,} of {total:,} pages pass all rules.")
    console.print(
        "Dropped: pages of which it is the first broken rule. Only by it: pages that break no "
        "other rule.",
        style="dim",
    )


def print_classifier(
    good: list[Path],
    poor: list[Path],
    out: Path,
    held_out: float,
    precision: float | None,
    recall: float | None,
    seed: int,
) -> None:
    """Train a classifier on the texts of `good` and `poor`, and print its figures."""
    for option, paths in (("--good", good), ("--poor", poor)):
        for path in paths:
            if not os.path.lexists(path):
                raise UserError(f"{option} {path}: no such file or folder")
    if out.is_dir():
        raise UserError(f"--out {out}: this is a folder; give the name of a file")
    if precision is not None and recall is not None:
        raise UserError("--precision and --recall: give one of them; the other follows from it")
    from data_pipeline.classifier_training.own_documents import read_texts, train_on_examples
    from data_pipeline.quality_classifier import TrainingSettings

    texts = {}
    for name, paths in (("good", good), ("poor", poor)):
        texts[name], without = read_texts(paths)
        print(f"{name}: {len(texts[name]):,} texts, {without:,} pages without a text")
    wanted_recall = 0.9 if precision is None and recall is None else recall
    settings = TrainingSettings(seed=seed)
    result = train_on_examples(
        texts["good"], texts["poor"], out, settings, held_out, precision, wanted_recall
    )
    for part, counts in result.counts.items():
        print(f"texts for {part}: {counts['wiki']:,} good, {counts['cc']:,} poor")
    if result.in_both:
        print(f"left out: {result.in_both:,} texts that are both good and poor")
    report = result.report
    print(f"threshold {result.threshold:.4f}; of {report.num_texts:,} texts for the report:")
    for name in ("precision", "recall", "f1", "roc_auc"):
        figure = getattr(report, name)
        interval = f"({figure.low:.3f} to {figure.high:.3f})"
        print(f"  {name:9} {figure.value:.3f} {interval}, chance {figure.chance:.3f}")
    for label, words in result.telling_words.items():
        print(f"words that speak for {label}: {' '.join(words)}")
    print(f"{out}: the model, for LM_QUALITY_MODEL; {out}.json: the figures")


def verdicts(recipe: RecipePath = DEMO, overrides: Overrides = None) -> None:
    """Show what each quality rule dropped, or would drop with other thresholds (--set).

    The pages are not read again: `lm data build` keeps what the rules measured.
    """
    print_verdicts(recipe, overrides)


def register(app: typer.Typer) -> None:
    """Add the three commands."""

    @app.command("get")
    def get(
        name: Annotated[
            str | None,
            typer.Argument(help="The data set, or the URL of a file; by default, list them all."),
        ] = None,
    ) -> None:
        """Download a data set into data/, or into the folder that LM_DATA names.

        A download that was interrupted continues.
        """
        if name is None:
            print_data_sets()
        else:
            get_data_set(name)

    @app.command("classifier")
    def classifier(
        good: Annotated[
            list[Path],
            typer.Option(
                help="A file or folder of texts to keep, of any kind that `lm data build` reads. "
                "May be repeated."
            ),
        ],
        poor: Annotated[
            list[Path],
            typer.Option(help="A file or folder of texts to drop. May be repeated."),
        ],
        out: Annotated[Path, typer.Option(help="The model file to write.")],
        held_out: Annotated[
            float,
            typer.Option(
                min=0.02,
                max=0.9,
                help="Share of the texts that is not used for training: half of it picks the "
                "threshold, half is for the report.",
            ),
        ] = 0.2,
        precision: Annotated[
            float | None,
            typer.Option(min=0, max=1, help="Wanted share of good texts among those kept."),
        ] = None,
        recall: Annotated[
            float | None,
            typer.Option(
                min=0,
                max=1,
                help="Wanted share of the good texts that is kept; 0.9 if neither is given.",
            ),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
    ) -> None:
        """Train a quality classifier on good and poor texts, and print how well it does."""
        print_classifier(good, poor, out, held_out, precision, recall, seed)

    app.command("verdicts")(verdicts)
