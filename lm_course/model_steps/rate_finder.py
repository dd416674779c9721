"""`lm pretrain --find-learning-rate RECIPE`: the range test on the recipe's model and shards.

It writes a plot and a JSON file into the run's folder, and changes neither checkpoints nor the
record of a step.

What this leaves out: the test itself (training/runs/learning_rate_finder.py).
"""

from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths, atomic_file, write_json
from lm_core.settings import load_settings
from lm_core.user_error import UserError
from lm_course.locations import in_home
from lm_course.pipeline.plan import plan
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.run_lock import run_lock
from lm_course.pipeline.step_catalogue import named
from lm_course.pipeline.step_records import check_input
from training.runs.learning_rate_finder import RangeTest, find_learning_rate

RESULT = "learning_rate_finder.json"
PICTURE = "learning_rate_finder.png"


def find_rate(recipe_path: Path, overrides: list[str]) -> None:
    """Run the test, write both files and print the rates.

    Raises:
        UserError: the recipe has no pretraining, or the steps before it have not been run.
    """
    recipe = load_settings(Recipe, recipe_path, overrides)
    paths = RunPaths(in_home(recipe.run.folder) / recipe.run.name)
    planned = plan([named(name) for name in recipe.run.steps], recipe.sections, paths.root)
    steps = [step for step in planned if step.name == "pretrain"]
    if not steps:
        raise UserError(f"{recipe_path}: run.steps does not list 'pretrain', so nothing is trained")
    for name in steps[0].needs:
        check_input(steps[0], name, paths)
    settings, shards = recipe.sections["pretrain"], steps[0].inputs["shards"][0]
    with run_lock(paths.root, "--set run.name=NAME"):
        found = find_learning_rate(settings, shards)
        write_json(paths.root / RESULT, as_json(found) | {"settings": settings.model_dump()})
        draw(found, paths.root / PICTURE)
    for line in in_words(found, settings.training):
        print(line)
    print(f"plot: {paths.root / PICTURE}, figures: {paths.root / RESULT}")


def as_json(found: RangeTest) -> dict[str, Any]:
    """Return the figures of a test."""
    return {
        "suggested": found.suggested,
        "steepest": found.steepest,
        "tenth_of_divergence": found.tenth_of_divergence,
        "diverged_at": found.diverged_at,
        "rates": found.rates,
        "losses": found.losses,
        "smoothed": found.smoothed,
    }


def in_words(found: RangeTest, training: Any) -> list[str]:
    """Return the lines that say which rates were found.

    Args:
        found: the test.
        training: the settings of the training, for the ratio of Muon's rate to AdamW's.
    """
    lines = []
    if found.steepest is None:
        lines.append("the smoothed loss never fell")
    else:
        lines.append(f"the smoothed loss fell fastest at {found.steepest:.2g}")
    if found.diverged_at is None:
        lines.append(f"it did not diverge up to {found.rates[-1]:.2g}")
    else:
        lines.append(
            f"it diverged at {found.diverged_at:.2g}, a tenth of which is "
            f"{found.tenth_of_divergence:.2g}"
        )
    if found.suggested is None:
        return [*lines, "no rate is suggested: look at the shards and the shape"]
    suggested = f"suggested: learning_rate = {found.suggested:.2g}"
    if training.optimizer == "muon":
        ratio = training.muon_learning_rate / training.learning_rate
        suggested += f", muon_learning_rate = {found.suggested * ratio:.2g}"
    if found.steepest is None:
        rule = "a tenth of the divergence, which is often ten times too high"
    elif found.diverged_at is None:
        rule = "the steepest fall, which is often too low"
    else:
        rule = "the geometric mean of both, right within a factor of 2 or 3"
    return [*lines, f"{suggested} ({rule})"]


def draw(found: RangeTest, path: Path) -> None:
    """Draw the losses against the rate, with the rates that were found, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="#8a8f98", linewidth=0.7, label="loss")
    axes.plot(found.rates, found.smoothed, color="#3b82f6", linewidth=1.6, label="smoothed")
    marks = {
        "steepest": (found.steepest, ":", "#10b981"),
        "a tenth of the divergence": (found.tenth_of_divergence, ":", "#f97316"),
        "suggested": (found.suggested, "-", "#111827"),
    }
    for name, (rate, style, colour) in marks.items():
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle=style, label=f"{name}: {rate:.2g}")
    top = max(found.smoothed[0], min(found.smoothed)) * 1.15
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss, nats per token")
    axes.set_ylim(min(found.losses) - 0.1, top)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(color="#8a8f9833")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format="png")
