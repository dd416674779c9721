"""Weights & Biases as a second place for metrics, only with `--wandb`; offline without a key."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lm_core.artifact_paths import RunPaths
from lm_core.formats.metric_log import MetricMirror
from lm_course.pipeline.recipe import Recipe


def has_key() -> bool:
    """Return True if wandb would find an API key, in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return path.is_file() and "api.wandb.ai" in path.read_text(errors="replace")


@contextmanager
def wandb_mirror(wanted: bool, recipe: Recipe, paths: RunPaths) -> Iterator[MetricMirror | None]:
    """Yield a wandb run that gets every metrics row, or None if it is not wanted."""
    if not wanted:
        yield None
        return
    import wandb

    paths.root.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project="language-models",
        name=recipe.run.name,
        dir=str(paths.root),
        mode="online" if has_key() else "offline",
        config=recipe.model_dump(mode="json"),
    )
    try:
        yield run
    finally:
        run.finish()
