"""A mistake planted in a step, or in a learner's file: what is said, and what still runs."""

import html
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
BROKEN_SCALING = """
import sys
from lm_course.model_steps import scaling
from lm_course.cli import main

def overflowing(*arguments, **options):
    return 10.0 ** 400

scaling.run_sweep = overflowing
main(sys.argv[1:])
"""


def page(run) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


def sections(run) -> list[str]:
    return re.findall(r'<h2 id="([^"]*)"', page(run))


def test_a_mistake_in_a_step_costs_that_step(shrunk_run, tmp_path: Path) -> None:
    run = shrunk_run.copy(tmp_path)
    whole = sections(run)
    command = run.with_recipe("run", "--force=scaling")
    done = run.lm(*command, program=("-c", BROKEN_SCALING))
    assert done.returncode == 1
    line = (
        "internal error in step scaling: OverflowError: (34, 'Numerical result out of range'); "
        "the traceback is in runs/demo/errors/scaling.txt"
    )
    assert done.stderr.splitlines()[-1] == f"lm: {line}"
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("up to date") == 10
    assert f"11/12 scaling       failed: {line}" in done.stdout
    assert re.search(r"^12/12 report  +open ", done.stdout, re.MULTILINE)
    kept = (run.folder / "errors" / "scaling.txt").read_text(encoding="utf-8")
    assert "in overflowing" in kept
    assert sections(run) == ["failures", *(name for name in whole if name != "scaling")]
    assert line in html.unescape(page(run))
    again = run.lm(*run.with_recipe("run", "--debug"), program=("-c", BROKEN_SCALING))
    assert again.returncode == 1
    assert "Traceback (most recent call last)" in again.stderr
    assert again.stdout.count("up to date") == 11  # the report has told of it
    mended = run.lm_recipe("run")
    assert mended.returncode == 0, mended.stderr
    assert sections(run) == whole
    assert not (run.folder / "errors").exists()


def test_what_does_not_need_the_failed_step_is_made(shrunk_run, tmp_path: Path) -> None:
    """Without fine-tuning the pretrained model is evaluated and sampled all the same."""
    run = shrunk_run.copy(tmp_path)
    command = run.with_recipe("run", "--set=sft.max_tokens=8")
    done = run.lm(*command)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "lm: step sft failed: " in done.stderr
    assert done.stderr.rstrip().endswith("; not run because of that: dpo")
    assert " 8/12 dpo           not run: it needs sft, which failed" in done.stdout
    assert {"failures", "samples", "pretrain", "evaluation", "scaling"} <= set(sections(run))
    assert not {"sft", "dpo"} & set(sections(run))
    alone = run.lm_recipe("dpo")
    assert alone.returncode == 2
    assert "lm dpo needs the step 'sft', which failed (" in alone.stderr


def learners_tokenizer(folder: Path, mistake: str) -> str:
    """A copy of merge_training.py with a mistake at the start of its training loop."""
    package = folder / "workspace" / "tokenizer_bpe"
    package.mkdir(parents=True)
    text = (PROJECT / "tokenizer_bpe" / "merge_training.py").read_text(encoding="utf-8")
    before = "    tokens = [bytes([byte]) for byte in range(256)]\n"
    head, tail = text.split(before, 1)
    (package / "merge_training.py").write_text(f"{head}    {mistake}\n{before}{tail}", "utf-8")
    line = head.count("\n") + 1
    return f"your workspace/tokenizer_bpe/merge_training.py, line {line}, in train_bpe_from_counts"


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        ("{}[3]", "KeyError: 3"),
        ("int('x')", "ValueError: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_a_mistake_in_a_learners_file_names_their_line(
    shrunk_run, tmp_path: Path, mistake: str, error: str
) -> None:
    run = shrunk_run.copy(tmp_path)
    place = learners_tokenizer(tmp_path, mistake)
    done = run.lm_recipe("run", "--only", "tokenizer", "--impl", "workspace")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"lm: {place}: {error} (the line: {mistake}); the traceback is in "
        "runs/demo/errors/tokenizer.txt"
    )
    assert "Traceback" not in done.stdout + done.stderr
