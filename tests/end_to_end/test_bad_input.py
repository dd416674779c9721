"""Bad input ends in one clear line and no traceback: status 2 before any step; 1 and a report in a
step of a whole run.
"""

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from lm_course.pipeline.run_lock import run_lock

PROGRESS = re.compile(r"  [a-zA-Z ]+: [\d,]+(/[\d,]+)? \w+ in [\d:]+\b.*")


def refused(done, status: int = 2) -> str:
    """The one line on standard error of a command that was refused; only progress came before."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith("lm: ")
    assert [line for line in before if not PROGRESS.fullmatch(line)] == []
    return last


def test_pages_that_are_missing_empty_or_of_no_known_kind(shrunk_run, tmp_path: Path) -> None:
    run = shrunk_run.copy(tmp_path)
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    (tmp_path / "other.pdf").write_bytes(b"%PDF-1.4\n\0")
    expected = {
        "none.warc.gz": "none.warc.gz: no such file or folder; correct pages.paths",
        "empty.warc.gz": "empty.warc.gz: the WARC file is empty",
        "other.pdf": "other.pdf: begins with b'%PDF-1.4'; expected files whose names end in .warc",
    }
    # What tells of the run is written anew; no artifact is touched.
    told = "settings.json", "report.html", "steps/report.json", "steps/collect.json"
    before = run.hashes(*told)
    assert {"documents/counts.json", "pages.warc.gz", "metrics.jsonl"} <= set(before)
    for name, message in expected.items():
        given = f'--set=pages.warc_files=["{name}"]'
        line = refused(run.lm_recipe("run", given), status=1)
        step = "collect" if name == "none.warc.gz" else "documents"
        assert line.startswith(f"lm: step {step} failed: ")
        assert message in line
        assert line.endswith("tokenizer, shards, pretrain, sft, dpo, evaluation, samples, scaling")
        notes = [path for path in run.hashes() if "failed" in path or path.startswith("errors/")]
        assert f"errors/{step}.txt" in notes
        assert run.hashes(*told, *notes) == before
        assert message in html.unescape((run.folder / "report.html").read_text("utf-8"))
    done = run.lm_recipe("run")
    assert done.returncode == 0
    assert done.stdout.count("up to date") == 10  # all but collect and the report
    assert run.hashes(*told) == before


def test_settings(shrunk_run) -> None:
    unknown = shrunk_run.lm_recipe("run", "--set=pretrain.training.lerning_rate=1.0")
    assert "unknown setting pretrain.training.lerning_rate; did you mean learning_rate?" in (
        refused(unknown)
    )
    wrong = shrunk_run.lm_recipe("run", '--set=pretrain.training.steps="many"')
    assert "pretrain.training.steps: input should be a valid integer; found 'many'" in (
        refused(wrong)
    )
    assert "no such recipe" in refused(shrunk_run.lm("run", "nowhere.toml"))
    assert "no step 'nostep' in this recipe; its steps are" in (
        refused(shrunk_run.lm_recipe("run", "--only", "nostep"))
    )


def test_shards_of_another_tokenizer(shrunk_run, tmp_path: Path) -> None:
    run = shrunk_run.copy(tmp_path)
    smaller = "--set=tokenizer.vocab_size=512"
    done = run.lm_recipe("run", "--only", "tokenizer", smaller)
    assert done.returncode == 0, done.stderr
    message = refused(run.lm_recipe("pretrain", smaller))
    assert "manifest.json: made with tokenizer" in message
    assert "make the shards again with `lm data shard RECIPE`" in message


def test_a_checkpoint_of_another_shape(shrunk_run, tmp_path: Path) -> None:
    run = shrunk_run.copy(tmp_path)
    for path in (run.folder / "checkpoints" / "dpo").rglob("config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "intermediate_size": 96}))
    message = refused(run.lm("generate", "x"))
    assert "the checkpoint does not fit its config.json" in message
    assert "has shape (176, 64), expected (96, 64)" in message


def test_prompts_and_sampling(shrunk_run) -> None:
    done = shrunk_run.lm("generate", "many words " * 200)
    assert "the model's context holds 128: shorten the prompt" in refused(done)
    assert done.stdout == ""
    assert "temperature must be 0 or a positive number" in (
        refused(shrunk_run.lm("generate", "x", "--temperature=-1"))
    )
    assert "no checkpoint there" in refused(shrunk_run.lm("generate", "x", "--checkpoint=nowhere"))


def test_a_run_in_which_another_lm_is_at_work(shrunk_run) -> None:
    before = shrunk_run.hashes()
    with run_lock(shrunk_run.folder, "--set run.name=NAME"):
        line = refused(shrunk_run.lm_recipe("run"))
    assert "runs/demo: another lm is running in this folder; wait until it ends" in line
    assert shrunk_run.hashes() == before


def test_commands(shrunk_run) -> None:
    assert "No such command 'pretrian'" in refused(shrunk_run.lm("pretrian"))
    assert "no such folder for your own files" in (
        refused(shrunk_run.lm_recipe("run", "--impl", "worksapce"))
    )
    assert "which has not been run" in (
        refused(shrunk_run.lm_recipe("pretrain", "--set=run.name=another"))
    )
    assert "there is no table of runs at" in refused(shrunk_run.lm("scaling", "fit", "none.csv"))


def test_an_artifact_that_was_deleted(shrunk_run, tmp_path: Path) -> None:
    run = shrunk_run.copy(tmp_path)
    shutil.rmtree(run.folder / "shards")
    before = run.hashes("settings.json")
    message = refused(run.lm_recipe("pretrain", "--force"))
    assert "the files of the step 'shards' are not those that it finished with" in message
    assert "run it to its end first, or `lm run RECIPE`" in message
    assert run.hashes("settings.json") == before


@pytest.mark.parametrize("command", [["generate", "x"], ["chat"]])
def test_without_a_run(tmp_path: Path, shrunk_run, command: list[str]) -> None:
    elsewhere = type(shrunk_run)(tmp_path / "runs" / "demo", [])
    assert "make one with `lm run`" in refused(elsewhere.lm(*command))


def test_a_stub_in_the_pipeline_names_its_task(shrunk_run, tmp_path: Path) -> None:
    run = shrunk_run.copy(tmp_path)
    package = tmp_path / "mine" / "tokenizer_bpe"
    package.mkdir(parents=True)
    text = Path("tokenizer_bpe/merge_training.py").read_text("utf-8")
    stub = 'raise NotImplementedError("a1.10: write train_bpe_from_counts")\n'
    head, tail = text.split("    tokens = [bytes([byte]) for byte in range(256)]\n", 1)
    (package / "merge_training.py").write_text(head + "    " + stub + tail, "utf-8")
    message = refused(run.lm_recipe("run", "--only", "tokenizer", "--impl", str(package.parent)))
    assert (
        "a1.10: write train_bpe_from_counts: this function in your file is still the stub"
        in message
    )
