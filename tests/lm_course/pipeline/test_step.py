"""A step can use what it declares, and nothing else."""

from pathlib import Path

import pytest

from lm_core.settings import Settings
from lm_course.pipeline.step import FILES, StepContext, UndeclaredAccess, artifact_files


class Own(Settings):
    number: int = 3


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(
        "clean",
        tmp_path,
        sections={"clean": Own()},
        inputs={"tokenizer": (tmp_path / "a.json", tmp_path / "b.txt")},
        outputs={"documents": (tmp_path / "documents",)},
        records={"tokenizer": {"summary": {"merges": 7}}},
    )


def test_what_is_declared_is_given(context: StepContext, tmp_path: Path) -> None:
    assert context.settings.number == 3
    assert context.input("tokenizer") == tmp_path / "a.json"
    assert context.input_files("tokenizer") == (tmp_path / "a.json", tmp_path / "b.txt")
    assert context.output("documents") == tmp_path / "documents"
    assert context.summary("tokenizer") == {"merges": 7}
    context.metrics().append({"step": 1})
    assert '"stage": "clean"' in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda c: c.input("documents"), r"the artifact 'documents'.*\(reads, or may_read"),
        (lambda c: c.input("documents"), "; it declares tokenizer$"),
        (lambda c: c.output("tokenizer"), r"the artifact 'tokenizer'.*\(writes\).* documents$"),
        (lambda c: c.section("shards"), r"the section 'shards'.*\(settings or reads_sections\)"),
        (lambda c: c.summary("collect"), r"the summary of 'collect'.*\(reads\)"),
    ],
)
def test_what_is_not_declared_is_refused(context: StepContext, ask, words: str) -> None:
    with pytest.raises(UndeclaredAccess, match=rf"the step 'clean' uses .*{words}"):
        ask(context)


def test_a_second_version_of_an_artifact_is_beside_the_first(tmp_path: Path) -> None:
    assert artifact_files(tmp_path, "documents") == (tmp_path / "documents",)
    assert artifact_files(tmp_path, "documents", "clean") == (tmp_path / "clean.documents",)
    second = artifact_files(tmp_path, "tokenizer", "clean")
    assert [path.name for path in second] == [f"clean.{name}" for name in FILES["tokenizer"]]
    nested = artifact_files(tmp_path, "checkpoints/sft", "clean")
    assert nested == (tmp_path / "checkpoints" / "clean.sft",)
