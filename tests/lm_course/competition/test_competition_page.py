"""The page: its figures, verses, bracket, the turn of the validation loss, and what is escaped."""

import json
import re
import subprocess
from typing import Any

import pytest

from lm_course.competition.bracket import play
from lm_course.competition.competition_page import _quoted, write_page
from lm_course.competition.curves import turn_of
from lm_course.competition.entries import load_entries
from lm_course.competition.entry_runs import Competition, EntryResult

LOSSES = {"adamw": [4.0, 3.0, 2.5, 2.0], "many_epochs": [4.0, 2.25, 2.5, 3.5]}


def rows_of(losses: list[float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": 0, "tokens": 0, "validation_loss": losses[0]}]
    for step in range(1, 31):
        row = {"step": step, "tokens": 1024 * step, "loss": 3 - step / 20}
        rows.append(row | {"tokens_per_second": 10_240.0})
        if step % 10 == 0:
            rows[-1]["validation_loss"] = losses[step // 10]
            rows[-1]["validation_bits_per_byte"] = losses[step // 10] * 1.5
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("best")
    results = []
    for entry in load_entries(["adamw", "many_epochs", "muon"]):
        recipe = folder / f"{entry.name}.toml"
        recipe.write_text(f'title = "{entry.name}"')
        if entry.name == "muon":
            results.append(EntryResult(entry, folder / "muon", recipe, failure="NaN & more"))
            continue
        result = EntryResult(
            entry,
            folder / entry.name,
            recipe,
            steps=30,
            rows=rows_of(LOSSES[entry.name]),
            summary={"parameters": 803_456, "train_tokens": 3072},
            verses=[f"Thou <{entry.name}>"],
            hashes={"weights": "ab12", "shards": "cd34"},
        )
        results.append(result)
    rounds, winner = play(["adamw", "many_epochs"], 0, lambda match: 1 + (match.second == "adamw"))
    assert winner == "adamw"
    path = write_page(Competition(folder, 0, tokens=30_720), results, rounds, winner)
    return path.read_text(), json.loads((folder / "competition.json").read_text())


def test_what_it_says_of_the_entries(page) -> None:
    text, figures = page
    words = re.sub(
        r"\s+", " ", re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]*>", " ", text, flags=re.DOTALL)
    )
    assert "3 entries · 30,720 tokens each · seed 0" in words
    assert "adamw 803,456 30 30,720 10.0 3.0 s 1.500 2.000 3.000" in words
    assert "of a person who read the two verses without names, or of a file of votes" in words
    assert "muon has no result: NaN &amp; more" in words
    assert (
        "many_epochs , 10.0 epochs: the validation loss was lowest at step 10, 2.250, and was "
        "3.500 at the end (step 30)." in words
    )
    assert (
        "adamw , 10.0 epochs: the validation loss was lowest at the end (step 30), 2.000: it has "
        "not turned." in words
    )
    by_name = {entry["name"]: entry for entry in figures["entries"]}
    assert by_name["many_epochs"]["turn"] == {
        "step": 10, "lowest": 2.25, "last_step": 30, "end": 3.5, "turned": True,
    }  # fmt: skip
    assert by_name["adamw"]["training_loss"] == pytest.approx(1.5)


def test_the_verses_and_the_winner(page) -> None:
    text, figures = page
    assert "JULIET:\nThou &lt;adamw&gt;" in text
    assert "<adamw>" not in text
    assert figures["winner"] == "adamw"
    assert figures["verse"] == "JULIET:\nThou <adamw>"
    [[match]] = figures["rounds"]
    assert {verse["name"]: verse["won"] for verse in match["verses"]} == {
        "adamw": True,
        "many_epochs": False,
    }


def test_it_needs_nothing_else(page) -> None:
    text, _ = page
    assert text.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert not re.search(
        r"<(script|link|img)|@import|https?://(?!www\.w3\.org|purl\.org|creativecommons)",
        re.sub(r"(?s)<metadata>.*?</metadata>", "", text),
    )


def test_how_to_repeat_it(page) -> None:
    text, figures = page
    train, draw, weights = figures["again"]["lines"]
    assert re.fullmatch(r"lm run \S*adamw.toml --set run.name=adamw_again", train)
    assert re.match(r"lm generate \$'JULIET:\\n' --checkpoint \S*/adamw_again/checkpoints", draw)
    assert weights.endswith("adamw_again/checkpoints/pretrain/step_000030/model.safetensors")
    assert "ab12" in text
    assert "cd34" in text
    assert "title = &#34;adamw&#34;" in text


def test_an_argument_with_a_line_end() -> None:
    assert _quoted("a b") == "'a b'"
    assert _quoted("it's \\ a\nb") == r"$'it\'s \\ a\nb'"


def test_bash_reads_the_quoted_arguments() -> None:
    arguments = ["it's \\ a\nb", "\\n\n\\", '$HOME `x` "!"\n', "it's $HOME", "", "é\n\t\x07", "*"]
    line = f"printf '%s\\0' {' '.join(map(_quoted, arguments))}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == arguments


@pytest.mark.parametrize(
    ("losses", "step", "turned"),
    [
        ([4.0, 2.0, 2.0, 2.0], 10, False),  # the first of equal ones, and none above it later
        ([4.0, 2.0, 3.0, 2.0], 10, False),
        ([4.0, 2.0, 2.0, 2.25], 10, True),
        ([4.0, 4.0, 4.0, 4.0], 0, False),
    ],
)
def test_the_loss_has_turned_only_if_it_ends_higher(
    losses: list[float], step: int, turned: bool
) -> None:
    turn = turn_of(rows_of(losses))
    assert (turn.step, turn.lowest, turn.turned) == (step, min(losses), turned)
