"""Training the entries: the budget, the recipe of each, failures and interruptions; `lm` itself is
replaced by a function that writes what a run writes.
"""

import json
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lm_core.artifact_paths import write_json
from lm_core.user_error import UserError
from lm_course.competition import entry_runs
from lm_course.competition.entries import Entry, load_entries
from lm_course.competition.entry_runs import Competition, train_entries
from lm_course.interrupts import Interrupts

SECONDS_OF_A_STEP = {"adamw": 0.02, "muon": 0.05, "many_epochs": 0.02}
LEARNERS = ("mine", "yours", "hers")


class WrittenRuns:
    """`lm run`, which writes a run's files without training.

    Attributes:
        commands: the arguments of every call.
        recipes: name of the run's kind and of the entry -> its recipe.
        fails: entry -> what to do in place of a run; it returns the exit status.
        validation: entry -> the bytes of its validation shard.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.recipes: dict[str, dict[str, Any]] = {}
        self.fails: dict[str, Callable[[Path], int]] = {}
        self.validation: dict[str, bytes] = {}

    def __call__(self, arguments: Sequence[str]) -> int:
        self.commands.append(list(arguments))
        path = Path(arguments[1])
        recipe = tomllib.loads(path.read_text())
        self.recipes[f"{path.parent.name}/{path.stem}"] = recipe
        name, root = recipe["run"]["name"], Path(recipe["run"]["folder"]) / recipe["run"]["name"]
        if name in self.fails:
            return self.fails[name](root)
        self._write(root, name, recipe)
        return 0

    def _write(self, root: Path, name: str, recipe: dict[str, Any]) -> None:
        steps = recipe["pretrain"]["training"]["steps"]
        rows = [{"stage": "pretrain", "step": 0, "seconds": 0.0, "validation_loss": 4.0}]
        for step in range(1, steps + 1):
            slow = 1.0 if step <= entry_runs.UNTIMED_STEPS else 0.0  # the first ones take longer
            seconds = rows[-1]["seconds"] + SECONDS_OF_A_STEP.get(name, 0.02) + slow
            rows.append({"stage": "pretrain", "step": step, "seconds": seconds, "loss": 3.0})
        rows[-1]["validation_loss"] = 2.0
        root.mkdir(parents=True, exist_ok=True)
        (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "shards").mkdir(exist_ok=True)
        shard = self.validation.get(name, b"the same")
        (root / "shards/validation-00000.bin").write_bytes(shard)
        checkpoint = root / f"checkpoints/pretrain/step_{steps:06}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(name.encode())
        verses = [
            {"text": f"verse {n}"}
            for n, _ in enumerate(recipe.get("samples", {"prompts": ()})["prompts"])
        ]
        write_json(root / "samples.json", {"completions": verses})
        for step in recipe["run"]["steps"]:
            summary = {"parameters": 5, "train_tokens": 7}
            record = {"step": step, "fingerprint": "", "outputs_sha256": "", "outputs_stat": []}
            record |= {"seconds": 1.0, "python": "3", "summary": summary}
            write_json(root / "steps" / f"{step}.json", record)


@pytest.fixture
def lm() -> WrittenRuns:
    return WrittenRuns()


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return load_entries(["adamw", "many_epochs", "muon"])


def competition(tmp_path: Path, **budget: Any) -> Competition:
    return Competition(tmp_path / "best", 7, **budget)


def test_a_budget_of_tokens_is_a_number_of_steps(entries, lm, tmp_path: Path) -> None:
    results = train_entries(entries, competition(tmp_path, tokens=200 * 1024 + 5), lm)
    assert [result.steps for result in results] == [200, 200, 200]
    assert [len(result.rows) for result in results] == [201, 201, 201]
    assert results[2].summary == {"parameters": 5, "train_tokens": 7}
    assert results[2].verses == ["verse 0", "verse 1"]
    assert len({result.hashes["weights"] for result in results}) == 3
    muon = lm.recipes["entries/muon"]
    training = muon["pretrain"]["training"]
    assert training["optimizer"] == "muon"
    assert (training["steps"], training["warmup_steps"], training["seed"]) == (200, 10, 7)
    assert training["validate_every"] == 10
    assert muon["samples"]["prompts"] == ["JULIET:\n", "KING RICHARD III:\n"]  # two rounds
    assert muon["samples"]["sampling"] == {"temperature": 0.8, "seed": 7}
    assert lm.recipes["entries/many_epochs"]["shards"]["training_share"] == 0.02


def test_a_budget_of_seconds_is_divided_by_the_time_of_a_step(entries, lm, tmp_path: Path) -> None:
    results = train_entries(entries, competition(tmp_path, seconds=10.01), lm)
    assert [result.steps for result in results] == [500, 500, 200]
    assert results[2].seconds_per_step == pytest.approx(0.05)
    timed = lm.recipes["timing/muon"]
    assert timed["pretrain"]["training"]["steps"] == entry_runs.TIMED_STEPS
    assert "samples" not in timed["run"]["steps"]


def test_a_budget_below_one_step_trains_nothing(entries, lm, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one step reads 1,024 tokens, more than the budget of 700"):
        train_entries(entries, competition(tmp_path, tokens=700), lm)
    assert lm.commands == []


def test_a_learners_files_are_used_for_their_entry_only(lm, tmp_path: Path) -> None:
    own = tmp_path / "adamw"
    (own / "training").mkdir(parents=True)
    (own / "training/loss.py").touch()
    both = load_entries([str(own), "muon"])
    train_entries(both, competition(tmp_path, tokens=10_240), lm)
    assert [command[2:] for command in lm.commands] == [
        ["--impl", str(own)],
        ["--impl", "reference"],
    ]


def test_an_entry_that_fails_does_not_stop_the_others(entries, lm, tmp_path: Path, capsys) -> None:
    def fails(root: Path) -> int:
        failure = {"step": "pretrain", "outcome": "failed", "reason": "the loss is NaN"}
        write_json(root / "steps/pretrain.failed.json", failure)
        return 1

    lm.fails = {"adamw": fails, "many_epochs": lambda root: -9}
    results = train_entries(entries, competition(tmp_path, tokens=10_240), lm)
    assert [result.failure for result in results] == [
        "the loss is NaN",
        "`lm run` was ended by SIGKILL",
        "",
    ]
    assert results[2].steps == 10
    assert "adamw has no result: the loss is NaN\n" in capsys.readouterr().out
    lm.fails = {"muon": lambda root: 0}  # ended, as after SIGTERM, and has written nothing
    [_, _, muon] = train_entries(entries, Competition(tmp_path / "new", 0, tokens=10_240), lm)
    assert muon.failure == "`lm run` ended with status 0, before its last step"


def test_other_tokens_are_not_compared(entries, lm, tmp_path: Path) -> None:
    lm.validation["muon"] = b"others"
    results = train_entries(entries, competition(tmp_path, tokens=10_240), lm)
    assert [bool(result.failure) for result in results] == [False, False, True]
    assert "are not those of adamw" in results[2].failure


@pytest.fixture
def learners(tmp_path: Path) -> list[str]:
    """Folders of learners."""
    folders = [tmp_path / name for name in LEARNERS]
    for folder in folders:
        (folder / "tokenizer_bpe").mkdir(parents=True)
        (folder / "tokenizer_bpe/encoding.py").touch()
    return list(map(str, folders))


def test_the_tokens_of_a_recipe_are_right_even_if_learners_agree(
    lm, learners, tmp_path: Path, capsys
) -> None:
    lm.validation |= dict.fromkeys(LEARNERS, b"others")
    four = load_entries([*learners, "muon"])
    results = train_entries(four, competition(tmp_path, tokens=10_240), lm)
    assert [bool(result.failure) for result in results] == [True, True, True, False]
    assert "are not those of muon: its files split" in results[0].failure
    assert "mine has no result: its tokens" in capsys.readouterr().out


def test_without_a_recipe_the_tokens_of_most_entries_are_right(
    lm, learners, tmp_path: Path
) -> None:
    lm.validation["mine"] = b"others"
    results = train_entries(load_entries(learners), competition(tmp_path, tokens=10_240), lm)
    assert [bool(result.failure) for result in results] == [True, False, False]
    assert "are not those of yours: its files, or those of yours, split" in results[0].failure
    lm.fails["yours"] = lambda root: -9
    results = train_entries(load_entries(learners), competition(tmp_path, tokens=10_240), lm)
    assert [bool(result.failure) for result in results] == [False, True, True]
    assert "are not those of mine: its files, or those of mine, split" in results[2].failure


def test_ctrl_c_stops_all(entries, lm, tmp_path: Path) -> None:
    lm.fails["adamw"] = lambda root: entry_runs.INTERRUPTED
    with pytest.raises(KeyboardInterrupt):
        train_entries(entries, competition(tmp_path, tokens=10_240), lm)
    assert len(lm.commands) == 1


WAITS = """
import signal, sys, time
from pathlib import Path
ready, saved = map(Path, sys.argv[1:])
def save(number, frame):
    time.sleep(0.5)  # longer than Popen.wait waits after Ctrl-C
    saved.touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
ready.touch()
time.sleep(60)
"""


def test_sigterm_is_passed_on_and_waited_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(entry_runs, "LM", (sys.executable, "-c", WAITS))
    monkeypatch.setattr(Interrupts, "saved_after", "")
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    waited = threading.Event()

    def stop() -> None:
        while not ready.exists():
            waited.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        entry_runs.lm_in_new_process([str(ready), str(saved)])
    assert saved.exists()
    assert Interrupts.saved_after == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
