"""The picture of a load test: four plots, for any number of levels, measured or not."""

import pytest
from matplotlib.figure import Figure

from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.load_picture import draw_picture
from lm_course.load_test.load_plan import Level
from lm_course.load_test.load_report import level_report
from lm_course.load_test.load_run import LevelRun


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    save = Figure.savefig

    def keep(figure, *given, **named):
        figures.append(figure)
        return save(figure, *given, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_values_of_every_level(tmp_path, drawn) -> None:
    records = [
        RequestRecord(0, n, 0.0, 0.0, [1.0 + n, 4.0 + n], 5.0, "done", None, None, 9, 2)
        for n in range(4)
    ]
    runs = [
        LevelRun(Level(clients=1), records[:1], 5.0),
        LevelRun(Level(clients=4), records, 5.0),
        LevelRun(Level(clients=8)),
    ]
    path = tmp_path / "new" / "latency.png"
    draw_picture(path, runs, [level_report(run) for run in runs])
    assert path.read_bytes().startswith(b"\x89PNG")
    first, gaps, whole, speed = drawn[0].axes
    assert [line.get_label() for line in first.lines] == ["1", "4"]
    assert list(first.lines[1].get_xdata()) == [1000, 2000, 3000, 4000]
    assert list(first.lines[1].get_ydata()) == [0.25, 0.5, 0.75, 1.0]
    assert set(gaps.lines[1].get_xdata()) == {3000}
    assert [line.get_label() for line in whole.lines] == ["p50", "p95", "p99"]
    assert list(speed.lines[0].get_ydata()) == pytest.approx([0.4, 1.6, 0.0])
    assert speed.get_ylim()[0] == 0
    assert speed.get_xlabel() == "clients"


def test_nothing_measured(tmp_path, drawn) -> None:
    run = LevelRun(Level(rate=2.0))
    draw_picture(tmp_path / "latency.png", [run], [level_report(run)])
    assert drawn[0].axes[3].get_xlabel() == "requests per second"
