"""Learners' files that use the earlier names of modules still work."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.earlier_names import EARLIER_NAMES

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", EARLIER_NAMES)
def test_the_module_is_that_of_today_and_keeps_its_own_name(name: str) -> None:
    importlib.import_module(name.partition(".")[0])
    today = importlib.import_module(EARLIER_NAMES[name])
    assert importlib.import_module(name) is today
    assert today.__name__ == EARLIER_NAMES[name] == today.__spec__.name


def test_a_learner_s_own_module_of_such_a_name_is_theirs(tmp_path: Path) -> None:
    package = tmp_path / "tokenizer_bpe"
    package.mkdir()
    (package / "text_files.py").write_text("MINE = True\n")
    (package / "naive_training.py").write_text(
        "from tokenizer_bpe.input_checks import check_vocab_size\n"
        "from tokenizer_bpe.text_files import MINE\n"
    )
    environment = {**os.environ, "LM_STAND_INS": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", "import tokenizer_bpe.naive_training as m; print(m.MINE)"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_a_name_that_never_was_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"tokenizer_bpe\.never_was"):
        importlib.import_module("tokenizer_bpe.never_was")
