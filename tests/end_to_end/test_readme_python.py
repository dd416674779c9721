"""The Python that the READMEs show does what they say, run as a file on the shrunk run."""

import re
from pathlib import Path

import pytest

from lm_core.formats.checkpoint_files import checkpoint_name, latest_checkpoint
from lm_core.formats.documents import read_documents
from lm_core.settings import load_settings
from lm_course.pipeline.recipe import Recipe

PROJECT = Path(__file__).parents[2]
# README -> what its reader may expect to hold after its snippet
HOLDS = {
    "README.md": "assert model.config.vocab_size == len(tokenizer) == 1024",
    "inference/README.md": "assert engine.model.config.vocab_size == 1024",
    "evaluation/README.md": "assert [row['step'] for row in rows] == [0, 60, 120]",
    "transformer_lm/README.md": "assert logits.shape == (1, 16, 4096)",
    "tokenizer_bpe/README.md": "assert len(ids) < len('Hello, world!')",
}


def python_of(name: str) -> str:
    """Every ```python block of a README, in order."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


READMES = [PROJECT / "README.md", *sorted(PROJECT.glob("*/README.md"))]
NAMES = [path.relative_to(PROJECT).as_posix() for path in READMES]
WITH_PYTHON = [name for name in NAMES if python_of(name)]


def test_the_snippets_are_found() -> None:
    assert set(HOLDS) <= set(WITH_PYTHON)


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_the_python_of_the_readme(shrunk_run, tmp_path: Path, name: str) -> None:
    """The README's checkpoint is that of the full recipe; the shrunk run's takes its place."""
    run = shrunk_run.copy(tmp_path)
    snippet = python_of(name)
    demo = load_settings(Recipe, PROJECT / "recipes" / "demo_cpu.toml")
    shown = f"runs/demo/checkpoints/dpo/{checkpoint_name(demo.dpo.training.steps)}"
    assert (shown in snippet) == (name in ("README.md", "inference/README.md"))
    last = latest_checkpoint(run.folder / "checkpoints" / "dpo").name
    code = snippet.replace(shown, f"runs/demo/checkpoints/dpo/{last}")
    texts = [document.text for document in read_documents(run.folder / "documents")]
    (tmp_path / "corpus.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    (tmp_path / "snippet.py").write_text(f"{code}\n{HOLDS.get(name, '')}\n", encoding="utf-8")
    done = run.lm(program=("snippet.py",))
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout.strip()) == ("print(" in snippet)


def test_the_greedy_text_of_the_snippet_is_that_of_the_command(shrunk_run, tmp_path: Path) -> None:
    """inference/README.md shows both."""
    run = shrunk_run.copy(tmp_path)
    snippet = python_of("inference/README.md")
    last = latest_checkpoint(run.folder / "checkpoints" / "dpo").name
    (tmp_path / "snippet.py").write_text(re.sub(r"step_\d+", last, snippet), encoding="utf-8")
    printed = run.lm(program=("snippet.py",)).stdout
    prompt = "This module provides"
    command = run.lm("generate", prompt, "--temperature=0", "--max-new-tokens=40")
    assert command.stdout == prompt + printed
