"""Ablations: the same training again and again, each time with one thing changed.

A file of recipes/ablations/ holds only what it changes; default.toml in the same folder holds the
rest. All runs see the same batches in the same order, so a difference comes from the change, or
from the dice: `default_again.toml` changes the seed alone, and shows how much those do. What this
leaves out: tuning the learning rate for each variant, which some would need to be at their best.
"""

from pathlib import Path
from typing import Any

from lm_core.formats.token_shards import TokenShards
from lm_core.settings import Settings, load_settings
from lm_core.user_error import UserError
from training.runs.finished_runs import RunSeries
from training.runs.pretraining import PretrainSettings

DEFAULT = "default.toml"


class AblationSettings(Settings):
    """A file of recipes/ablations/.

    Attributes:
        title: for the table and the plot.
        shards: the folder of the text.
        folder: gets the results.
        pretrain: the run.
    """

    title: str
    shards: str
    folder: str
    pretrain: PretrainSettings


def load_ablations(paths: list[Path], overrides: list[str] | None = None) -> list[AblationSettings]:
    """Read ablation files; the default's own comes first, whether it is named or not.

    Raises:
        ValueError: the files lie in several folders, a setting is wrong, or two have one title.
    """
    folders = {path.parent for path in paths}
    if len(folders) != 1:
        raise UserError(
            f"ablations from {len(folders)} folders; name files of one, which holds {DEFAULT} too"
        )
    for path in paths:
        if not path.is_file():
            there = sorted(file.stem for file in path.parent.glob("*.toml"))
            raise UserError(
                f"{path}: no such ablation; {path.parent} has {', '.join(there) or 'none'}"
            )
    base = folders.pop() / DEFAULT
    ordered = [base, *(path for path in paths if path.name != DEFAULT)]
    settings = [load_settings(AblationSettings, path, overrides, base) for path in ordered]
    titles = [each.title for each in settings]
    for number, title in enumerate(titles):
        if title in titles[:number]:
            raise UserError(
                f"{ordered[number]}: title is {title!r}, as in "
                f"{ordered[titles.index(title)]}; give each its own"
            )
    return settings


def run_ablations(
    ablations: list[AblationSettings], code: dict[str, str] | None = None
) -> tuple[list[dict[str, Any]], Path]:
    """Train those that are not finished yet.

    Returns:
        (what each reached, with its title, in order: see `RunSeries`, where one that diverged is a
        result too; the metrics.jsonl with all rows, in which a run's stage is its title).
    """
    first = ablations[0]
    shards = TokenShards.open(Path(first.shards), "train", None)
    series = RunSeries(shards, Path(first.folder), "lm ablate", code)
    results = []
    for each in ablations:
        name = each.title.replace(" ", "_")
        done = series.train_unless_finished(each.pretrain, name, each.title, keeps_diverged=True)
        results.append({"title": each.title, **done})
    return results, series.metrics
