"""`lm data get`, from the list to the file."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from unreliable_server import honest, serving, status

from data_pipeline.downloads import registered_sets
from data_pipeline.downloads.registered_sets import DataSet, RegisteredFile
from data_pipeline.rule_sets.rule_verdicts import RuleSettings, measure_rules
from data_pipeline.rule_sets.verdict_files import Verdict, write_verdicts
from lm_course.cli import main

CONTENT = b"To be, or not to be" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LM_DATA", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path


def register(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str | None) -> None:
    files = (RegisteredFile("a.txt", (url,), sha256, len(CONTENT)),)
    monkeypatch.setitem(
        registered_sets.DATA_SETS, "plays", DataSet("plays", "Plays", "none", files)
    )


def test_a_known_set_is_downloaded_once_and_then_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with serving(CONTENT, honest) as server:
        register(monkeypatch, server.url, SHA256)
        main(["data", "get", "plays"])
        first = capsys.readouterr().out.splitlines()
        main(["data", "get", "plays"])
        second = capsys.readouterr().out.splitlines()
    assert first == [
        f"{Path('data/plays/a.txt')}: 0.0 MB, downloaded, checksum right",
        "licence: none; in a recipe: --set text.dataset=plays",
    ]
    assert second[0] == f"{Path('data/plays/a.txt')}: 0.0 MB, was there, checksum right"
    assert len(server.asked) == 1
    assert (folder / "data" / "plays" / "a.txt").read_bytes() == CONTENT
    main(["data", "get"])
    listed = capsys.readouterr().out
    assert "shakespeare" in listed
    assert os.path.join("data", "plays") in listed  # noqa: PTH118


def test_an_unknown_checksum_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LM_DATA", str(folder / "elsewhere"))
    with serving(CONTENT, honest) as server:
        register(monkeypatch, server.url, None)
        main(["data", "get", "plays"])
    said = capsys.readouterr().out
    assert "no checksum was known; recorded in elsewhere/plays/SHA256SUMS" in said
    assert SHA256 in (folder / "elsewhere" / "plays" / "SHA256SUMS").read_text()


def test_a_failure_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with serving(CONTENT, status(404)) as server:
        register(monkeypatch, server.url, SHA256)
        with pytest.raises(SystemExit) as stopped:
            main(["data", "get", "plays"])
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"lm: a.txt could not be downloaded: {server.url}: status 404 Not Found"
    assert not (folder / "data").exists()


def test_a_file_at_a_url_goes_to_a_folder_named_after_it(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    with serving(CONTENT, status(404), honest) as server:
        url = f"{server.url}/crawl-data/segments/a.txt"
        with pytest.raises(SystemExit):
            main(["data", "get", url])
        assert list(folder.iterdir()) == [], "no empty folders stay"
        capsys.readouterr()
        main(["data", "get", url])
    where = Path("data/127.0.0.1/crawl-data/segments")
    assert capsys.readouterr().out.splitlines() == [
        f"{where / 'a.txt'}: 0.0 MB, downloaded, no checksum was known; recorded in "
        f"{where / 'SHA256SUMS'}",
        f"licence: see the page of whoever publishes it; `lm data build --from {where}` reads it",
    ]
    assert (folder / where / "a.txt").read_bytes() == CONTENT


def test_verdicts_by_other_thresholds(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """From what was measured, without the pages."""
    (folder / "recipe.toml").write_text('[run]\nname = "one"\nsteps = ["collect", "documents"]\n')
    settings = RuleSettings()
    texts = ["the words of a text. " * 20, "the word and that. " * 20, "of it all to be."]
    write_verdicts(
        folder / "runs/one/documents/verdicts.parquet",
        (
            Verdict("", "", "en", None, measure_rules(text, settings, settings.rules))
            for text in texts
        ),
        settings,
        settings.rules,
    )
    rows = []
    for words in (50, 100):
        setting = f"documents.quality.min_words={words}"
        main(["data", "verdicts", "recipe.toml", "--set", setting])
        printed = capsys.readouterr().out
        rows.append(re.search(r"^number of words +(\d+) +(\d+) +(\d+)", printed, re.M).groups())
        rows.append(re.search(r"^(\d+) of (\d+) pages pass all rules", printed, re.M).groups())
    assert rows == [("1", "1", "0"), ("2", "3"), ("2", "2", "1"), ("1", "3")]


def test_verdicts_begin_with_the_rules_of_the_build(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "recipe.toml").write_text('[run]\nname = "one"\nsteps = ["collect", "documents"]\n')
    settings = RuleSettings(rules=["fineweb"], min_words=3)
    measures = measure_rules("A line without an end", settings, settings.rules)
    path = folder / "runs/one/documents/verdicts.parquet"
    write_verdicts(path, [Verdict("", "", "en", None, measures)], settings, settings.rules)
    main(["data", "verdicts", "recipe.toml"])
    printed = capsys.readouterr().out
    assert "0 of 1 pages pass" in printed and "number of words" not in printed
    changes = ["min_end_mark_share=0.0", "max_short_line_share=1.0"]
    given = [f"--set=documents.quality.fineweb.{change}" for change in changes]
    main(["data", "verdicts", "recipe.toml", *given])
    assert "1 of 1 pages pass" in capsys.readouterr().out


def test_verdicts_before_the_documents_are_built(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "recipe.toml").write_text('[run]\nname = "one"\nsteps = ["collect", "documents"]\n')
    with pytest.raises(SystemExit, match="2"):
        main(["data", "verdicts", "recipe.toml"])
    said = capsys.readouterr().err
    assert "make them with `lm data build recipe.toml` and the same --set" in said


def texts(folder: Path, name: str, form: str) -> str:
    names = [chr(97 + n // 26) + chr(97 + n % 26) for n in range(80)]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f'{{"text": "{form.format(n)}"}}\n' for n in names))
    return str(path)


def test_a_classifier_is_trained_and_its_figures_are_printed(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    good = texts(folder, "good", "The river {} flows to the lake.")
    poor = texts(folder, "poor", "Login | Cart | {}")
    main(["data", "classifier", "--good", good, "--poor", poor, "--out", "new/model.bin"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "good: 80 texts, 0 pages without a text"
    assert any(
        line.startswith("  roc_auc   1.000 (1.000 to 1.000), chance 0.500") for line in lines
    )
    assert sorted(os.listdir("new")) == ["model.bin", "model.bin.json"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--good", "missing", "--poor", ".", "--out", "m"], "--good missing: no such file"),
        (["--good", ".", "--poor", "missing", "--out", "m"], "--poor missing: no such file"),
        (["--good", ".", "--poor", ".", "--out", "."], "--out .: this is a folder"),
        (
            ["--good", ".", "--poor", ".", "--out", "m", "--precision", "1", "--recall", "1"],
            "--precision and --recall: give one of them",
        ),
    ],
)
def test_a_classifier_that_cannot_be_trained(
    folder: Path, capsys: pytest.CaptureFixture, given: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "classifier", *given])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(folder.iterdir())
