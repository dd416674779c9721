"""`lm data ablate` on forty small pages: what each variant is trained on, and what is kept."""

import re
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from data_pipeline.shard_writing import TRAIN
from data_pipeline.sources.warc_files import Page, write_warc
from lm_core.artifact_paths import read_json
from lm_core.formats.token_shards import TokenShards
from lm_course.cli import main
from lm_course.data_ablation import variant_shards
from lm_course.data_ablation.variant_runs import SETS
from tokenizer_bpe.tokenizer import Tokenizer
from training.runs import finished_runs

pytest.importorskip("fasttext")
RECIPE = """
[run]
name = "tiny"
folder = "{folder}"
steps = ["collect", "documents", "tokenizer", "shards", "pretrain"]
[pages]
paths = ["{folder}/pages.warc.gz"]
[documents]
num_processes = 0
[tokenizer]
vocab_size = 300
num_processes = 1
[pretrain]
device = "cpu"
validation_tokens = 1000
[pretrain.model]
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
d_ff = 32
[pretrain.training]
steps = 3
batch_size = 2
learning_rate = 1e-2
warmup_steps = 0
"""
SENTENCES = [
    "The {0} walked slowly along the river and thought of the long winter that was to come.",
    "Nobody had told the {0} that the bridge was closed, and so it had to turn back.",
    "In the evening the {0} sat by the fire with a cup of tea and a book about {1}.",
    "There is no better place to be than here, said the {0}, and everybody agreed with that.",
    "Write to {0}@example.org if you want to hear more of the boat.",
]
SHORT = "This page is too short to be of use to anybody, and that is all of it."


class Done(NamedTuple):
    """A finished command."""

    recipe: Path
    folder: Path
    printed: str


def story(number: int, also: str = "") -> Page:
    words = [f"{chr(97 + number % 26)}{chr(97 + number // 26)}{part}" for part in ("bear", "boat")]
    body = "".join(f"<p>{s.format(*words)} This is number {number}.</p>" for s in SENTENCES)
    html = f"<html><body>{body}<p>{also}</p></body></html>"
    return Page(f"http://x/{number}{also[:3]}", "text/html", html.encode(), "utf-8")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("ablate")
    pages = [story(number) for number in range(40)]
    pages += [story(number, "And so on.") for number in range(40)]  # a near copy of each
    short = f"<html><body><p>{SHORT}</p></body></html>".encode()
    pages += [Page("http://x/short", "text/html", short, "utf-8")]
    write_warc(folder / "pages.warc.gz", pages)
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(folder=folder.as_posix()))
    printed = ablate(recipe)
    return Done(recipe, folder / "tiny" / "data_ablation", printed)


def ablate(recipe: Path, *more: str) -> str:
    from contextlib import redirect_stdout
    from io import StringIO

    chosen = ["--leave-out", "near duplicates", "--leave-out", "quality-rules"]
    handler = signal.getsignal(signal.SIGINT)  # which a command takes, also in a fixture
    with redirect_stdout(StringIO()) as printed:
        main(["data", "ablate", str(recipe), *chosen, "--seeds", "1", "--held-out", "0.2", *more])
    signal.signal(signal.SIGINT, handler)
    return printed.getvalue()


def text_of(done: Done, variant: str, split: str = TRAIN) -> str:
    shards = TokenShards.open(done.folder / "variants" / variant / "shards", split)
    tokenizer = Tokenizer.from_hugging_face(done.folder / "tokenizer" / "tokenizer.json")
    return tokenizer.decode(shards.read(0, shards.num_tokens).tolist())


def numbers_in(text: str) -> list[int]:
    return sorted({int(number) for number in re.findall(r"This is number (\d+)\.", text)})


def test_the_result_has_a_row_for_each_variant(done: Done) -> None:
    result = read_json(done.folder / "ablation.json", "the result", "")
    left_out = ["nothing", "near duplicates", "quality rules"]
    assert [variant["left_out"] for variant in result["variants"]] == left_out
    assert result["tokens_of_a_run"] == 3 * 2 * 16
    full, near, rules = result["variants"]
    assert near["documents"] == 2 * full["documents"]
    assert rules["documents"] == full["documents"] + 1
    assert full["epochs"] == pytest.approx(96 / full["tokens"])
    for variant in (near, rules):
        for name in ("clean", "unfiltered"):
            figures = variant[name]
            own, other = (each["runs"][0][name] for each in (variant, full))
            assert 2 < own < 12
            assert (figures["mean"], figures["difference"]) == (own, own - other)
            assert figures["interval"] is None and figures["standard_deviation"] is None
    table = (done.folder / "ablation.md").read_text().splitlines()
    assert len(table[0].split("|")) == len(table[4].split("|"))
    assert f"{near['clean']['mean']:.4f}" in table[3] and table[3] in "\n".join(table)
    for left in left_out:
        assert done.printed.count(f"\n{left} ") == 3
    assert (done.folder / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_variant_lacks_its_filter_and_no_other(done: Done) -> None:
    result = read_json(done.folder / "ablation.json", "the result", "")
    steps = [[step for step, *_ in variant["steps"]] for variant in result["variants"]]
    full = steps[0]
    assert steps[1] == [step for step in full if step != "near duplicates"]
    assert steps[2] == [step for step in full if step != "quality rules"]
    assert SHORT in text_of(done, "quality_rules")
    assert SHORT not in text_of(done, "nothing")
    assert "And so on" in text_of(done, "near_duplicates")
    assert "And so on" not in text_of(done, "nothing")


def test_held_out_pages_and_their_copies_are_in_no_training_set(done: Done) -> None:
    held = read_json(done.folder / "held_out.json", "the pages", "")["summary"]
    measured = sorted(int(url.rpartition("/")[2]) for url in held["measured"] if "short" not in url)
    assert 3 <= len(measured) <= 14
    assert len(held["copies"]) == len(measured)
    for variant in ("nothing", "near_duplicates", "quality_rules"):
        assert numbers_in(text_of(done, variant)) == sorted({*range(40)} - {*measured})


def test_both_sets_are_the_same_for_every_variant_and_only_one_is_filtered(done: Done) -> None:
    held = read_json(done.folder / "held_out.json", "the pages", "")["summary"]
    for variant in ("nothing", "near_duplicates", "quality_rules"):
        clean, unfiltered = (text_of(done, variant, split) for split in SETS.values())
        assert clean == text_of(done, "nothing", SETS["clean"])
        assert unfiltered == text_of(done, "nothing", SETS["unfiltered"])
        assert 0 < unfiltered.count("<|endoftext|>") <= len(held["measured"])
        for split in SETS.values():
            shards = done.folder / "variants" / variant / "shards"
            assert 600 < TokenShards.open(shards, split).num_tokens <= 1000
        assert "EMAIL_ADDRESS" in clean and "@example" not in clean
        assert "EMAIL_ADDRESS" not in unfiltered and "@example" in unfiltered
    for variant in read_json(done.folder / "ablation.json", "the result", "")["variants"]:
        [run] = variant["runs"]
        assert run["clean"] != run["unfiltered"]


def test_the_same_command_trains_and_filters_nothing_again(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(done.folder / "ablation.json", "the result", "")
    (done.folder / "ablation.json").unlink()
    monkeypatch.setattr(finished_runs, "pretrain", None)
    monkeypatch.setattr(variant_shards, "build_from_pages", None)
    ablate(done.recipe)
    assert read_json(done.folder / "ablation.json", "the result", "") == before


def test_a_command_that_was_stopped_trains_only_what_is_missing(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    pretrain = finished_runs.pretrain

    def noted(settings, shards_folder, *given, **named):
        trained.append(shards_folder.parent.name)
        return pretrain(settings, shards_folder, *given, **named)

    before = read_json(done.folder / "ablation.json", "the result", "")
    monkeypatch.setattr(finished_runs, "pretrain", noted)
    (done.folder / "finished" / "near_duplicates-seed_0.json").unlink()
    ablate(done.recipe)
    assert trained == ["near_duplicates"]
    assert read_json(done.folder / "ablation.json", "the result", "") == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--leave-out", "near duplicate"], "no such filter; did you mean 'near duplicates'?"),
        (["--leave-out", "harmful text"], "the recipe does not use the filter 'harmful text'"),
        (["--from", "nowhere"], "nowhere: no such file or folder"),
        (["--from", "s3://bucket/a"], "not from an object store"),
        (["--set", "tokenizer={kind='characters'}"], "has no token for a character"),
        (["--set", 'documents.leave_out=["gopher"]'], "no step 'gopher'; expected some of"),
        (["--set", "pages.paths=[]"], "pages.warc.gz: no pages there; make them with"),
    ],
)
def test_bad_input_is_one_line(
    done: Done, given: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "ablate", str(done.recipe), *given])
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_too_small_a_share_is_said(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    elsewhere = ["--set", f"run.folder={tmp_path.as_posix()}", "--held-out", "0.001"]
    with pytest.raises(SystemExit) as stopped:
        main(["data", "ablate", str(done.recipe), *elsewhere])
    assert stopped.value.code == 2
    assert "--held-out 0.001 is too small a share" in capsys.readouterr().err.splitlines()[-1]
