"""The output of `lm ablate`: a table against the first run, and a picture."""

from pathlib import Path

import matplotlib.image
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lm_core.user_error import UserError
from lm_course.cli import app
from lm_course.commands.ablation_commands import _file_of, draw_loss_curves, print_comparison
from lm_course.pipeline.run_lock import run_lock


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("no_position", "recipes/ablations/no_position.toml"),
        ("mine.toml", "mine.toml"),
        ("recipes/ablations/gelu.toml", "recipes/ablations/gelu.toml"),
        ("here/gelu", "here/gelu"),
    ],
)
def test_a_name_stands_for_its_file(given: str, file: str) -> None:
    assert _file_of(Path(given)) == Path(file)


def test_two_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ablations"
    with run_lock(folder, ""):
        done = CliRunner().invoke(app, ["ablate", "gelu", "--set", f"folder={folder}"])
    assert isinstance(done.exception, UserError)
    assert "another lm is running in this folder" in str(done.exception)
    assert str(done.exception).endswith("choose another folder with --set folder=FOLDER")


def test_the_table_compares_with_the_first_run():
    console = Console(record=True, width=80)
    results = [
        {"title": "default", "parameters": 1_300_000, "bits_per_byte": 2.0},
        {"title": "post-norm", "parameters": 1_299_872, "bits_per_byte": 2.125},
    ]
    print_comparison(results, console)
    default, post = console.export_text().splitlines()[1:]
    assert default.split() == ["default", "1,300,000", "2.000"]
    assert post.split() == ["post-norm", "1,299,872", "2.125", "+0.125"]


def test_a_run_that_diverged_says_at_which_step():
    console = Console(record=True, width=80)
    plain = {"title": "default", "parameters": 1_300, "bits_per_byte": 2.0}
    diverged = {"title": "no norm", "parameters": 1_200, "diverged_at": 17}
    print_comparison([plain, diverged], console)
    print_comparison([diverged, plain], console)
    _, _, row, _, _, behind = console.export_text().splitlines()
    assert row.split() == ["no", "norm", "1,200", "diverged", "at", "step", "17"]
    assert behind.split() == ["default", "1,300", "2.000"]


def test_the_picture_of_a_run_that_diverged_at_once_is_drawn(tmp_path):
    draw_loss_curves(["no norm"], [[]], tmp_path / "loss_curves.png")


def test_the_picture_has_a_line_for_each_run(tmp_path):
    rows = [{"step": 0, "validation_bits_per_byte": 8.0}]
    rows += [{"step": step, "loss": 5 / step} for step in range(1, 10)]
    rows[-1]["validation_bits_per_byte"] = 3.0
    path = tmp_path / "loss_curves.png"
    draw_loss_curves(["one"], [rows], path)
    one = matplotlib.image.imread(path)
    draw_loss_curves(["one", "two"], [rows, [{**row, "loss": 4.0} for row in rows[1:]]], path)
    two = matplotlib.image.imread(path)
    assert one.shape == two.shape
    assert (one != two).any()
