"""Tables of runs: round trip, the column names of other tables, and errors that name the line."""

import pytest

from scaling_laws.small_runs.runs_csv import FinishedRun, read_runs_csv, write_runs_csv

RUNS = [FinishedRun(1000.0 * n, 5000.0 * n, 5 - n / 10) for n in range(1, 8)]


def test_round_trip_and_flops(tmp_path) -> None:
    write_runs_csv(tmp_path / "runs.csv", RUNS)
    assert read_runs_csv(tmp_path / "runs.csv") == RUNS
    first = (tmp_path / "runs.csv").read_text().splitlines()[1]
    assert first == "1000,5000,4.9,3.000000e+07"


def test_a_tiny_loss_survives_the_table(tmp_path) -> None:
    runs = [FinishedRun(10.0, 10.0 * n, 1.23456789e-9) for n in range(1, 7)]
    write_runs_csv(tmp_path / "runs.csv", runs)
    assert read_runs_csv(tmp_path / "runs.csv") == runs


def test_published_heads_and_further_columns(tmp_path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("C, N , D,loss\n" + "1,1e3,5e3,4.5\n" * 6)
    assert read_runs_csv(path) == [FinishedRun(1e3, 5e3, 4.5)] * 6


def test_the_mark_that_spreadsheets_put_first_is_not_part_of_a_head(tmp_path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss\n" + "1,2,3\n\n" * 6, encoding="utf-8-sig")
    assert read_runs_csv(path) == [FinishedRun(1, 2, 3)] * 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("N,loss\n", "has no column tokens or D: its columns are N, loss"),
        ("", "its columns are none; rename the right column, and separate"),
        ("N,D,loss\n1,2,3\n", "holds 1 runs"),
        ("N,D,loss\n1,2,3\n1,x,3\n", "line 3: D must be a positive number .*, got 'x'"),
        ("N,D,loss\n1,2,-3\n", "line 2: loss must be a positive number .*, got '-3'"),
        ("N,D,loss\n1,2,nan\n", "line 2: loss must be a positive number .*, got 'nan'"),
        ("N,D,loss\n1,2,1e300\n", r"from 1e-30 to 1e\+30\), got '1e300'"),
        ("N,D,loss\n1,2\n", "line 2: loss must be a positive number .*, got ''"),
    ],
)
def test_mistakes_are_named(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_runs_csv(path)


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no table of runs at"):
        read_runs_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a text file"):
        read_runs_csv(tmp_path / "binary.csv")
