"""`lm data get`: download a registered data set."""

from typing import Annotated

import typer


def print_data_sets() -> None:
    """Print the registered data sets, and where those that are there are."""
    from rich.console import Console
    from rich.table import Table

    from data_pipeline.downloads.registered_sets import DATA_SETS
    from lm_course.locations import data_folder, shown

    table = Table("name", "contents", "licence", "where", box=None, pad_edge=False)
    for data_set in DATA_SETS.values():
        is_there = all(path.is_file() for path in data_set.paths(data_folder()))
        where = shown(data_folder() / data_set.name) if is_there else "not downloaded"
        table.add_row(data_set.name, data_set.title, data_set.licence, where)
    Console().print(table)


def get_data_set(name: str) -> None:
    """Download a data set, and print its files."""
    from data_pipeline.downloads.data_set_files import SUMS, fetch_data_set
    from data_pipeline.downloads.registered_sets import data_set_named
    from lm_course.locations import DATA_VARIABLE, data_folder, shown
    from lm_course.pipeline.run_lock import run_lock

    data_set = data_set_named(name)
    with run_lock(data_folder() / name, f"the environment variable {DATA_VARIABLE}"):
        fetched = fetch_data_set(data_set, data_folder())
    for path, was_there, checked in fetched:
        how = "was there" if was_there else "downloaded"
        sums = shown(path.with_name(SUMS))
        check = "checksum right" if checked else f"no checksum was known; recorded in {sums}"
        print(f"{shown(path)}: {path.stat().st_size / 1e6:,.1f} MB, {how}, {check}")
    use = f"; in a recipe: --set text.dataset={name}" if data_set.is_text else ""
    print(f"licence: {data_set.licence}{use}")


def register(app: typer.Typer) -> None:
    """Add `lm data get`."""

    @app.command("get")
    def get(
        name: Annotated[
            str | None, typer.Argument(help="The data set; by default, list them all.")
        ] = None,
    ) -> None:
        """Download a data set into data/, or into the folder that LM_DATA names.

        A download that was interrupted continues.
        """
        if name is None:
            print_data_sets()
        else:
            get_data_set(name)
