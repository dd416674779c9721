"""`lm compete best-verse` from entries to the page, with real runs of a tiny model: a recipe, many
epochs, and a learner's folder whose file is really used.
"""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import preloaded_python
import pytest
from typer.testing import CliRunner, Result

from lm_core.artifact_paths import file_sha256
from lm_core.formats.metric_log import read_metrics
from lm_core.user_error import UserError
from lm_course.cli import app
from lm_course.competition import entry_runs
from lm_course.competition.compete_command import best_verse
from lm_course.competition.entries import load_base
from lm_course.pipeline.step_failures import StepsFailed

PROJECT = Path(__file__).parents[3]
TINY = [
    "pretrain.model.d_model=16", "pretrain.model.num_layers=1", "pretrain.model.num_heads=2",
    "pretrain.model.num_kv_heads=2", "pretrain.model.d_ff=16", "pretrain.model.context_length=16",
    "pretrain.training.batch_size=4", "samples.max_new_tokens=20",
    'samples.prompts=["Shall I\\n", "thee "]',
]  # fmt: skip
SMALL = [part for setting in TINY for part in ("--set", setting)]
# A learner's optimizer that does not move: the validation loss stays that of the new model.
STANDS_STILL = """
def learning_rate_at(step, **settings):
    return 0.0

def warmup_stable_decay_at(step, **settings):
    return 0.0

def linear_decay_at(step, **settings):
    return 0.0
"""


class Workshop:
    """A folder with a text and three entries, and `lm compete best-verse` on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said = ""  # what the runs of the entries have printed
        (root / "text.txt").write_text("Shall I compare thee to a summer's day?\n" * 60)
        (root / "plain.toml").touch()
        (root / "epochs.toml").write_text("[shards]\ntraining_share = 0.1\n")
        (root / "mine/training").mkdir(parents=True)
        (root / "mine/training/schedules.py").write_text(STANDS_STILL)
        (root / "votes.txt").write_text("1\n2\n")
        self.entries = [str(root / name) for name in ("plain.toml", "epochs.toml", "mine")]

    def lm(self, arguments: Sequence[str]) -> int:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = preloaded_python.run(["-m", "lm_course", *arguments], self.root, environment, 120)
        self.said += done.stdout + done.stderr
        return done.returncode

    def compete(self, *more: str, typed: str = "", entries: list[str] | None = None) -> Result:
        given = self.entries if entries is None else entries
        text, folder = f"text.path={self.root / 'text.txt'}", str(self.root / "best")
        arguments = ["compete", "best-verse", *given, "--folder", folder, "--seed", "3"]
        arguments += ["--set", text, *SMALL]
        return CliRunner().invoke(app, [*arguments, *more], input=typed)


def arguments_in_bash(line: str) -> list[str]:
    """Return the words of a command as bash reads them; nothing is started."""
    shows = "lm() { printf '%s\\0' lm \"$@\"; }; sha256sum() { printf '%s\\0' sha256sum \"$@\"; }\n"
    done = subprocess.run(["bash", "-c", shows + line], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One competition, with votes from a file."""
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_runs, "lm_in_new_process", made.lm)
        done = made.compete("--tokens", "2000", "--votes", str(made.root / "votes.txt"))
        assert done.exception is None, (done.exception, done.output, made.said)
    return made


@pytest.fixture
def figures(workshop: Workshop) -> dict[str, Any]:
    return json.loads((workshop.root / "best/competition.json").read_text())


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], int]:
    def started(arguments: Sequence[str]) -> int:
        return pytest.fail(f"started lm {arguments}")

    monkeypatch.setattr(entry_runs, "lm_in_new_process", started)
    return started


def test_all_entries_are_on_the_page(workshop: Workshop, figures: dict[str, Any]) -> None:
    page = (workshop.root / "best/best_verse.html").read_text()
    assert figures["budget"] == "2,000 tokens"
    assert [entry["name"] for entry in figures["entries"]] == ["plain", "epochs", "mine"]
    assert [entry["failure"] for entry in figures["entries"]] == ["", "", ""]
    assert {entry["steps"] for entry in figures["entries"]} == {31}
    plain, epochs, _ = figures["entries"]
    assert epochs["epochs"] == pytest.approx(10 * plain["epochs"], rel=0.05)
    assert sum(not match["bye"] for matches in figures["rounds"] for match in matches) == 2
    assert f"<b>{figures['winner']}</b>" in page


def test_the_learners_file_is_used(workshop: Workshop) -> None:
    rates = {
        name: {
            row["learning_rate"]
            for row in read_metrics(workshop.root / f"best/entries/{name}/metrics.jsonl")
            if row["stage"] == "pretrain" and row["step"]
        }
        for name in ("plain", "mine")
    }
    assert rates["mine"] == {0.0}
    assert 0.0 not in rates["plain"]


def test_the_same_verse_again_to_the_letter(workshop: Workshop, figures: dict[str, Any]) -> None:
    """With the lines of the page, as bash reads them."""
    again = figures["again"]
    page = (workshop.root / "best/best_verse.html").read_text()
    lines = list(map(html.unescape, re.findall('<pre class="command">(.*?)</pre>', page)))
    assert lines == again["lines"]
    train, draw, check = (arguments_in_bash(line) for line in lines)
    assert [train, draw] == [["lm", *again["train"]], ["lm", *map(str, again["draw"])]]
    assert workshop.lm(train[1:]) == 0, workshop.said
    [winner] = (each for each in figures["entries"] if each["name"] == figures["winner"])
    assert check[0] == "sha256sum"
    assert file_sha256(Path(check[1])) == winner["weights_sha256"]
    first = workshop.root / f"best/entries/{winner['name']}/checkpoints/pretrain"
    weights = first / Path(check[1]).relative_to(Path(check[1]).parents[1])
    assert not weights.samefile(check[1])
    assert weights.read_bytes() == Path(check[1]).read_bytes()
    workshop.said = ""
    assert workshop.lm(draw[1:]) == 0
    assert workshop.said == figures["verse"] + "\n"


def test_a_second_time_trains_nothing_and_asks_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_runs, "lm_in_new_process", workshop.lm)
    page = workshop.root / "best/best_verse.html"
    before = page.read_text()
    page.unlink()
    workshop.said = ""
    done = workshop.compete("--tokens", "2000")
    assert done.exception is None
    assert workshop.said.count("pretrain   up to date") == 3
    assert "Which is better" not in done.output
    assert page.read_text() == before


def test_voting_stops_and_resumes(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_runs, "lm_in_new_process", lambda arguments: 0)  # all is there
    page, votes = workshop.root / "best/best_verse.html", workshop.root / "best/votes.json"
    page.unlink(missing_ok=True)
    votes.unlink()
    stopped = workshop.compete("--tokens", "2000", typed="b\n2\nq\n")
    assert stopped.exception is None
    assert "match 2 of 2, verse 2" in stopped.output
    assert stopped.output.count("match 1 of 2, verse 1") == 2
    assert "stopped; your votes are kept" in stopped.output
    assert len(json.loads(votes.read_text())) == 1
    assert not page.exists()
    for name in ("plain", "epochs", "mine"):  # nobody knows whose verses they are
        assert name not in stopped.output.partition("match 1 of 2")[2]
    ended = workshop.compete("--tokens", "2000", typed="")
    assert isinstance(ended.exception, UserError), "without a terminal, status 2"
    assert "match 2 of 2: " in str(ended.exception)
    assert not page.exists()
    resumed = workshop.compete("--tokens", "2000", typed="1\n")
    assert resumed.exception is None
    assert "match 1 of 2, verse" not in resumed.output
    assert "wrote the best verse" in resumed.output
    assert page.exists()


def test_a_file_of_votes_after_a_failure(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lm(arguments: Sequence[str]) -> int:
        return -9 if "mine.toml" in arguments[1] else 0

    monkeypatch.setattr(entry_runs, "lm_in_new_process", lm)
    votes = str(workshop.root / "votes.txt")
    done = workshop.compete("--tokens", "2000", "--votes", votes)
    assert isinstance(done.exception, UserError)
    assert "votes: 2, matches: 1, because mine has no result" in str(done.exception)
    others = workshop.compete("--tokens", "2000", typed="1\n")
    assert isinstance(others.exception, StepsFailed)  # status 1, and the page is written
    assert "1 of 3 entries have no result: mine" in str(others.exception)
    assert "mine</b> has no result" in (workshop.root / "best/best_verse.html").read_text()
    monkeypatch.setattr(entry_runs, "lm_in_new_process", lambda arguments: -9)
    none = workshop.compete("--tokens", "2000")
    assert isinstance(none.exception, StepsFailed)
    assert "a bracket needs two" in str(none.exception)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tokens", "2000", "--seconds", "3"], "a competition has one budget"),
        (["--seconds", "0"], "--seconds 0: expected a number above 0"),
        (["--seconds", "nan"], "expected a number above 0"),
        (["--tokens", "50"], "one step reads 64 tokens"),
        (["--votes", "none.txt"], "none.txt: no such file of votes"),
        (["--set", "text.path=none.txt"], "none.txt: no such text file"),
        (["--set", 'samples.prompts=["Zeus"]'], "samples.prompts has 'Z', which does not occur"),
        (["--set", "samples.prompts=[]"], "samples.prompts is empty"),
        (["--set", "text.pth=a"], "--set: unknown setting text.pth"),
    ],
)
def test_wrong_input_starts_nothing(
    workshop: Workshop, no_runs: object, more: list[str], message: str
) -> None:
    done = workshop.compete(*more)
    assert isinstance(done.exception, UserError), done.exception
    assert message in str(done.exception)


def test_the_help_names_the_budget_of_the_shipped_recipe() -> None:
    shared = load_base().pretrain
    tokens = shared.training.steps * shared.training.batch_size * shared.model.context_length
    options = get_type_hints(best_verse, include_extras=True)
    [option] = get_args(options["tokens"])[1:]
    assert f"shakespeare_best_verse, {tokens:,}." in option.help


def test_one_entry_only(workshop: Workshop, no_runs: object) -> None:
    done = workshop.compete(entries=workshop.entries[:1])
    assert isinstance(done.exception, UserError)
    assert "at least two entries" in str(done.exception)


def test_nothing_is_left_of_wrong_input(tmp_path: Path, no_runs: object) -> None:
    made = Workshop(tmp_path)
    assert isinstance(made.compete("--tokens", "50").exception, UserError)
    assert not (tmp_path / "best").exists()
    shutil.rmtree(tmp_path)
