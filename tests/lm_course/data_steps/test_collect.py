"""Pages of one's own: what `lm data build --from` reads, when it runs again, what it refuses."""

import json
import os
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from lm_core.formats.documents import read_counts, read_documents
from lm_core.user_error import UserError
from lm_course.cli import app
from lm_course.pipeline import step_records
from lm_course.pipeline.step_failures import StepsFailed

pytest.importorskip("fasttext")
SENTENCES = (
    "The {0} walked slowly along the river and thought of the long winter that was to come. "
    "Nobody had told the {0} that the bridge was closed, and so it had to turn back. "
    "In the evening the {0} sat by the fire with a cup of tea and a book about the {1}. "
    "There is no better place to be than here, said the {0}, and everybody agreed with that."
)
WORDS = ["bear", "boat", "captain", "doctor", "engine", "farmer"]


def story(number: int) -> str:
    return SENTENCES.format(WORDS[number], WORDS[number - 1])


@pytest.fixture
def crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a page of each of three kinds, below the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("crawl")
    (folder / "sub").mkdir(parents=True)
    (folder / "a.html").write_text(f"<p>{story(0)}</p>")
    (folder / "sub" / "b.txt").write_text(story(1))
    rows = [{"text": story(2), "id": "two"}, {"body": story(3)}]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def build(*arguments: str, num_processes: int = 0) -> str:
    settings = ("--set", f"documents.num_processes={num_processes}")
    done = CliRunner().invoke(app, ["data", *arguments, *settings])
    if isinstance(done.exception, StepsFailed):
        return str(done.exception)
    assert done.exit_code == 0, done.exception
    return done.stdout


def documents() -> list[str]:
    return sorted(document.text for document in read_documents(Path("runs/demo/documents")))


def test_documents_come_out_of_the_given_paths_alone(crawl: Path) -> None:
    said = build("build", "--from", str(crawl))
    assert "3 files given" in said
    assert "3 of 4 pages kept" in said
    assert documents() == sorted(map(story, range(3)))
    [named] = read_counts(Path("runs/demo/documents"))[0]["named"]
    assert named == "c.jsonl: line 2 has the keys body"
    build("build", "--from", "crawl/c.jsonl", "--set", 'pages.text_keys=["body"]')
    assert documents() == [story(3)]
    build("build", "--from", "crawl/a.html", "--from", "crawl/sub")
    assert documents() == sorted(map(story, range(2)))


def test_the_funnel_is_printed_also_if_nothing_runs(crawl: Path) -> None:
    build("build", "--from", "crawl")
    for _ in range(2):
        *said, last = build("build", "--from", "crawl").splitlines()
        assert last == f"written: {Path('runs/demo/documents')}"
        [start] = [number for number, line in enumerate(said) if line.startswith("step  ")]
        table = said[start:]
        assert table[0].split() == ["step", "in", "out", "MB", "out", "s"]
        cells = {line[:24].strip(): line[24:].split() for line in table[1:-1]}
        assert cells["extract text"][:2] == ["4", "3"]
        assert cells["near duplicates"][:3] == ["3", "3", "0.0"]
        assert all(len(row) == 4 for row in cells.values()), "also the seconds"
        assert table[-1] == "dropped: row has no text 1"
        assert max(map(len, table)) <= 60


def test_a_changed_new_or_deleted_file_of_a_folder_runs_the_step_again(crawl: Path) -> None:
    given = ("build", "--from", "crawl")
    build(*given)
    assert build(*given).count("up to date") == 2
    (crawl / "a.html").write_text(f"<p>{story(4)}</p>")
    assert "up to date" not in build(*given)
    assert story(4) in documents()
    (crawl / "new.html").write_text(f"<p>{story(5)}</p>")
    assert "4 of 5 pages kept" in build(*given)
    (crawl / "sub" / "b.txt").unlink()
    assert "3 of 4 pages kept" in build(*given)


def test_a_file_that_may_not_be_read_costs_that_file(
    crawl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(call):
        def refused(path: Path, *arguments, **settings):
            if path.name == "a.html":
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *arguments, **settings)

        return refused

    monkeypatch.setattr(Path, "open", refusing(Path.open))
    monkeypatch.setattr(step_records, "file_sha256", refusing(step_records.file_sha256))
    assert "2 of 4 pages kept" in build("build", "--from", "crawl")
    first, _ = read_counts(Path("runs/demo/documents"))[0]["named"]
    assert first == "a.html: cannot be read (Permission denied)"


def test_files_of_a_store_give_the_same_documents_and_are_written_to_one(crawl: Path) -> None:
    store = fsspec.filesystem("memory")
    for path in crawl.rglob("*.*"):
        store.pipe(f"/pages/{path.relative_to(crawl).as_posix()}", path.read_bytes())
    build("build", "--from", "crawl")
    here = {path.name: path.read_bytes() for path in Path("runs/demo/documents").iterdir()}
    given = ("build", "--from", "memory://pages", "--to", "memory://out/documents")
    said = build(*given)
    assert "3 files listed" in said and "3 of 4 pages kept" in said
    assert said.endswith("memory://out/documents: 0.0 MB written\n")
    there = {path: store.cat(path) for path in store.find("/out/documents")}
    assert there == {f"/out/documents/{name}": data for name, data in here.items()}
    assert build(*given).count("up to date") == 2
    store.pipe("/pages/a.html", f"<p>{story(4)}</p>".encode())
    assert "memory:///pages/a.html: has changed since it was listed" in build(*given, "--force")
    build("collect", "--set", "pages.paths=memory://pages", "--force")
    build(*given)
    assert documents() == sorted(map(story, (1, 2, 4)))


def test_paths_here_and_in_a_store_together_are_refused(crawl: Path) -> None:
    done = CliRunner().invoke(app, ["data", "build", "--from", "crawl", "--from", "memory://pages"])
    expected = "memory://pages is in an object store, and other paths are here; expected all in a"
    assert expected in str(done.exception)
    done = CliRunner().invoke(app, ["data", "build", "--from", "crawl", "--to", "out"])
    assert str(done.exception).startswith("--to out: expected the URL of an object store")
    assert not Path("runs").exists()


def test_force_does_not_delete_the_given_folder(crawl: Path) -> None:
    given = ("--set", "pages.paths=crawl", "--force")
    for command in ("collect", "build"):
        build(command, *given)
    assert len(documents()) == 3
    assert len(list(crawl.rglob("*.*"))) == 3


def test_a_folder_that_contains_the_run_is_refused(crawl: Path) -> None:
    line = build("build", "--from", ".")
    reason = "contains the run's own folder runs/demo, whose files are not pages; give a folder"
    assert line.startswith(f"step collect failed: .: {reason}")


def test_paths_that_are_missing_or_hold_no_page(crawl: Path) -> None:
    (crawl / "empty").mkdir()
    line = build("build", "--set", "pages.paths=crawl/empty")
    assert line.startswith("step collect failed: crawl/empty: no page in this folder; expected")
    done = CliRunner().invoke(app, ["data", "build", "--from", "crawl/empty"])
    assert isinstance(done.exception, UserError), "before any step: exit status 2"
    assert str(done.exception).startswith("crawl/empty: no page in this folder; expected")
    line = build("build", "--set", "pages.paths=nowhere")
    assert line.startswith("step collect failed: nowhere: no such file or folder; correct pages.p")
    done = CliRunner().invoke(app, ["data", "build", "--from", "nowhere"])
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "--from nowhere: no such file or folder"
    assert not Path("runs/demo/documents").exists()


def test_a_file_name_that_is_not_utf_8_is_read_and_remembered(crawl: Path) -> None:
    try:
        Path(os.fsdecode(b"crawl/\xff\xfe.html")).write_text(f"<p>{story(4)}</p>")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert "4 of 5 pages kept" in build("build", "--from", "crawl")
    assert "up to date" in build("build", "--from", "crawl")


def test_the_number_of_processes_does_not_run_the_step_again(crawl: Path) -> None:
    build("build", "--from", "crawl", num_processes=1)
    assert build("build", "--from", "crawl", num_processes=2).count("up to date") == 2
