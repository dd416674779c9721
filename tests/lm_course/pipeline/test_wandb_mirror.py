"""With `--wandb`, wandb gets every metrics row under the stage's name; without it, wandb gets none.

A fake wandb in `sys.modules` needs no network and no account.
"""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm_core.artifact_paths import RunPaths
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.settings import load_settings
from lm_course import cli
from lm_course.pipeline import step_catalogue
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.step import Step, StepContext
from lm_course.pipeline.wandb_mirror import wandb_mirror

DEMO = Path(__file__).parents[3] / "recipes" / "demo_cpu.toml"


class FakeWandb:
    """The part of wandb that the mirror uses; it remembers its calls."""

    def __init__(self) -> None:
        self.started: dict[str, Any] | None = None
        self.rows: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **options: Any) -> Any:
        assert self.started is None, "one command is one wandb run"
        self.started = options
        return SimpleNamespace(log=self.rows.append, finish=self.finish)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWandb:
    """The fake wandb, on a machine without a key."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return fake


@pytest.fixture
def recipe() -> Recipe:
    return load_settings(Recipe, DEMO, ["run.name=mirrored"])


def test_rows_arrive_with_the_stage_in_their_names(fake_wandb, recipe, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "runs" / "mirrored")
    with wandb_mirror(True, recipe, paths) as mirror:
        MetricLog(paths.metrics, "pretrain", mirror).append({"step": 1, "loss": 5.5})
        MetricLog(paths.metrics, "sft", mirror).append({"step": 2, "loss": 4.5})
        assert fake_wandb.finished == 0
    assert fake_wandb.rows == [
        {"pretrain/step": 1, "pretrain/loss": 5.5},
        {"sft/step": 2, "sft/loss": 4.5},
    ]
    assert [row["loss"] for row in read_metrics(paths.metrics)] == [5.5, 4.5]
    assert fake_wandb.finished == 1


def test_the_run_has_the_recipes_name_and_settings(fake_wandb, recipe, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "runs" / "mirrored")
    with wandb_mirror(True, recipe, paths):
        assert paths.root.is_dir()
    assert fake_wandb.started["name"] == "mirrored"
    assert fake_wandb.started["dir"] == str(paths.root)
    assert fake_wandb.started["config"] == recipe.model_dump(mode="json")


def test_offline_without_a_key_and_online_with_one(
    fake_wandb, recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode() -> str:
        fake_wandb.started = None
        with wandb_mirror(True, recipe, RunPaths(tmp_path)):
            return fake_wandb.started["mode"]

    assert mode() == "offline"
    (tmp_path / "netrc").write_text("machine elsewhere.example login user password x\n")
    assert mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert mode() == "online"
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert mode() == "online"


def test_the_wandb_run_is_finished_when_a_step_fails(fake_wandb, recipe, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), wandb_mirror(True, recipe, RunPaths(tmp_path)):
        raise KeyboardInterrupt
    assert fake_wandb.finished == 1


def test_without_the_flag_wandb_is_not_even_imported(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would now raise ImportError
    with wandb_mirror(False, recipe, RunPaths(tmp_path)) as mirror:
        assert mirror is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--wandb"]])
def test_the_flag_reaches_the_steps(
    fake_wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    def train(context: StepContext) -> dict[str, Any]:
        context.metrics().append({"step": 1, "loss": 5.5})
        context.output("numbers").write_text("1")
        return {}

    step = Step("pretrain", "lm pretrain", "", train, lambda s: "trained", writes=("numbers",))
    monkeypatch.setattr(step_catalogue, "named", lambda name: step)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # pytest's handler stays
    monkeypatch.chdir(tmp_path)
    cli.main(["run", str(DEMO), "--set=run.name=mirrored", '--set=run.steps=["pretrain"]', *flags])
    assert fake_wandb.rows == ([{"pretrain/step": 1, "pretrain/loss": 5.5}] if flags else [])
    assert (fake_wandb.started is not None) == bool(flags)
    assert len(read_metrics(Path("runs/mirrored/metrics.jsonl"))) == 1
