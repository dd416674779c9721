"""A file is there complete or not at all, whatever happens while it is written."""

import errno
import os
import stat
from pathlib import Path

import pytest

from lm_core.artifact_paths import (
    RunPaths,
    atomic_file,
    atomic_folder,
    file_sha256,
    out_of_space,
    read_json,
    remove_unfinished,
    write_json,
)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("old")
    with pytest.raises(failure), atomic_file(path, "w") as file:
        file.write("half of the new")
        raise failure
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "shards"
    path.mkdir()
    (path / "a.bin").write_text("old")
    with pytest.raises(failure), atomic_folder(path) as temporary:
        (temporary / "b.bin").write_text("half")
        raise failure
    assert [p.name for p in path.iterdir()] == ["a.bin"]
    assert [p.name for p in tmp_path.iterdir()] == ["shards"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "shards"
    for name in ("a.bin", "b.bin"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["b.bin"]
    assert [p.name for p in path.parent.iterdir()] == ["shards"]


def test_an_interrupt_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shards"
    path.mkdir()
    (path / "a.bin").write_text("old")
    rename = Path.replace

    def interrupted(source: Path, target: Path) -> Path:
        if target == path and (source / "b.bin").exists():
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as temporary:
        (temporary / "b.bin").write_text("new")
    assert (path / "a.bin").read_text() == "old"


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_file(tmp_path / "atomic") as file:
        file.write(b"")
    (tmp_path / "plain_folder").mkdir()
    with atomic_folder(tmp_path / "atomic_folder"):
        pass
    for ours, plain in (("atomic", "plain"), ("atomic_folder", "plain_folder")):
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (ours, plain)]
        assert modes[0] == modes[1]


def test_remove_unfinished_takes_only_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-x1shards").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".unfinished-abc").write_text("half")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert remove_unfinished(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "tokenizer.json"]


def test_out_of_space_reads_the_chain_of_causes() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = full
    assert out_of_space(full)
    assert out_of_space(wrapped)
    assert not out_of_space(OSError(errno.EACCES, "Permission denied"))


def test_hash_of_a_folder_depends_on_names_and_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("x")
    assert file_sha256(tmp_path / "one") == file_sha256(tmp_path / "two")
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "b")
    assert file_sha256(tmp_path / "one") != file_sha256(tmp_path / "two")


def test_json_that_is_missing_or_broken_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with pytest.raises(ValueError, match=r"make it with `lm eval RECIPE`"):
        read_json(path, "the evaluation", "lm eval RECIPE")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"not valid JSON .* `lm eval RECIPE`"):
        read_json(path, "the evaluation", "lm eval RECIPE")
    write_json(path, {"a": "é"})
    assert read_json(path, "the evaluation", "lm eval RECIPE") == {"a": "é"}
    with pytest.raises(ValueError):
        write_json(path, {"loss": float("nan")})
    assert read_json(path, "the evaluation", "lm eval RECIPE") == {"a": "é"}


def test_run_paths_are_those_of_the_architecture() -> None:
    paths = RunPaths(Path("runs/demo"))
    assert paths.checkpoints("sft") == Path("runs/demo/checkpoints/sft")
    assert paths.step_record("shards") == Path("runs/demo/steps/shards.json")
