"""Ablations: the same training several times, each time with one thing changed.

A file in recipes/ablations/ contains only its changes; default.toml in the same folder contains the
rest. All runs see the same batches in the same order, so a difference comes from the change or from
chance: `default_again.toml` changes the seed alone, and shows the size of the second effect.

What this leaves out: tuning the learning rate for each variant, which some would need for their
best result.
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
        title: name in the table and the plot.
        shards: folder of the token shards.
        folder: where the results are written.
        pretrain: settings of the run.
    """

    title: str
    shards: str
    folder: str
    pretrain: PretrainSettings


def load_ablations(paths: list[Path], overrides: list[str] | None = None) -> list[AblationSettings]:
    """Read ablation files; the default comes first, whether it is named or not.

    Raises:
        ValueError: the files are in several folders, a setting is wrong, or two have the same
            title.
    """
    folders = {path.parent for path in paths}
    if len(folders) != 1:
        raise UserError(
            f"the ablations are in {len(folders)} folders; name files of one folder that also "
            f"contains {DEFAULT}"
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
                f"{ordered[number]}: title is {title!r}, the same as in "
                f"{ordered[titles.index(title)]}; give each file its own title"
            )
    return settings


def run_ablations(
    ablations: list[AblationSettings], code: dict[str, str] | None = None
) -> tuple[list[dict[str, Any]], Path]:
    """Train the ablations that are not finished yet.

    Returns:
        (the results in order, each with its title; the metrics.jsonl with all rows, in which a
        run's stage is its title). See `RunSeries` for the results; a run that diverged has one too.
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
