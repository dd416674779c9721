"""The hash of a step's code covers the behaviour of all that it imports, stand-ins first, and
nothing else.
"""

from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.pipeline import code_hash as module
from lm_course.pipeline.code_hash import code_hashes, module_file, reachable_modules

LESSON = "def f(x):\n    return x + 1\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """step.py imports a lesson, which imports another inside a function."""
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.delenv(STAND_INS_VARIABLE, raising=False)
    for name, text in {
        "steps/__init__.py": "",
        "steps/one.py": "import json\nfrom stage.lesson import f\n",
        "stage/__init__.py": '"""Stage."""\n',
        "stage/lesson.py": f"import numpy\n{LESSON}def g():\n    from stage.given import table\n",
        "stage/given/__init__.py": "",
        "stage/given/table.py": "ROWS = 3\n",
        "stage/other.py": "x = 1\n",
        "lm_core/settings.py": "x = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_all_that_is_imported_is_found_and_nothing_else(project: Path) -> None:
    assert set(reachable_modules("steps.one")) == {
        "steps", "steps.one", "stage", "stage.lesson", "stage.given", "stage.given.table",
    }  # fmt: skip
    assert set(code_hashes("steps.one")) == {"steps", "stage"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("stage/lesson.py", LESSON.replace("+ 1", "+ 2")),
        ("stage/lesson.py", LESSON.replace("x):", "x, y=0):")),
        ("stage/given/table.py", "ROWS = 4\n"),
        ("stage/given/__init__.py", "import os\n"),
    ],
)
def test_behaviour_counts(project: Path, file: str, text: str) -> None:
    before = code_hashes("steps.one")
    (project / file).write_text(text)
    after = code_hashes("steps.one")
    assert after["steps"] == before["steps"]
    assert after["stage"] != before["stage"]


def test_what_is_not_imported_does_not_count(project: Path) -> None:
    before = code_hashes("steps.one")
    (project / "stage" / "new.py").write_text("x = 1\n")
    (project / "stage" / "other.py").write_text("x = 2\n")
    (project / "lm_core" / "settings.py").write_text("x = 2\n")
    assert code_hashes("steps.one") == before


def test_comments_docstrings_and_formatting_do_not_count(project: Path) -> None:
    (project / "stage" / "lesson.py").write_text(LESSON)
    before = code_hashes("steps.one")
    source = '"""A file."""\n# why\ndef f( x ):\n    """Add one."""\n    return (x + 1)\n'
    (project / "stage" / "lesson.py").write_text(source)
    assert code_hashes("steps.one") == before


def test_a_stand_in_counts_with_what_it_imports_and_its_init_file_does_not(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_hashes("steps.one")
    workspace = project / "workspace" / "stage"
    workspace.mkdir(parents=True)
    (workspace / "lesson.py").write_text("from stage.mine import f\n")
    (workspace / "mine.py").write_text(LESSON)
    (workspace / "__init__.py").write_text("never_imported = 1\n")
    assert code_hashes("steps.one") == before
    monkeypatch.setenv(STAND_INS_VARIABLE, str(project / "workspace"))
    assert module_file("stage.lesson") == workspace / "lesson.py"
    assert module_file("stage") == project / "stage" / "__init__.py"
    assert "stage.mine" in reachable_modules("steps.one")
    assert code_hashes("steps.one") != before


def test_a_syntax_error_names_file_and_line(project: Path) -> None:
    (project / "stage" / "lesson.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"lesson.py: line 1: not valid Python"):
        code_hashes("steps.one")


def test_a_new_file_of_the_data_pipeline_reruns_no_alignment() -> None:
    packages = {name.partition(".")[0] for name in reachable_modules("lm_course.model_steps.sft")}
    assert packages == {"alignment", "lm_course", "tokenizer_bpe", "training", "transformer_lm"}
    found = reachable_modules("lm_course.data_steps.tokenizer")
    assert "data_pipeline.shard_writing" in found
    assert "data_pipeline.text_extraction" not in found


def test_a_file_is_read_once_and_a_name_looked_up_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the file is edited, which its time of change shows."""
    read, looked_up = [], []

    class Counted(module._Module):
        def __init__(self, path: Path) -> None:
            read.append(path.relative_to(project).as_posix())
            super().__init__(path)

    def counted(name: str) -> Path | None:
        looked_up.append(name)
        return module_file(name)

    monkeypatch.setattr(module, "_Module", Counted)
    monkeypatch.setattr(module, "module_file", counted)
    table = project / "stage" / "given" / "table.py"
    table.write_text("import json\nROWS = 3\n")
    (project / "steps" / "two.py").write_text("import json\nfrom stage.lesson import f, g\n")
    code_hashes("steps.one")
    assert sorted(looked_up) == sorted(set(looked_up))
    assert "json" in looked_up
    code_hashes("steps.two")
    assert sorted(read) == sorted(set(read))
    assert {"steps/two.py", "stage/lesson.py", "stage/given/table.py"} <= set(read)
    read.clear()
    before = code_hashes("steps.two")
    table.write_text("ROWS = 4\n")
    assert code_hashes("steps.two") != before
    assert read == ["stage/given/table.py"]
