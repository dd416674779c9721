"""The Ray executor: one line if Ray is missing, and the same results as the local one if it is not.

The tests with Ray start a cluster, so they are slow.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers import the module below by its name

from poisoned_items import lost, start_poisoned
from story_pages import html, story

import data_pipeline
from data_pipeline.executors import document_building
from data_pipeline.executors.document_building import (
    DocumentSettings,
    build_documents,
    build_from_pages,
    executor_of,
)
from data_pipeline.executors.executor import Limits
from data_pipeline.executors.ray_executor import SENT_VARIABLES, RayExecutor
from data_pipeline.quality_classifier import HarmfulSettings, TrainingSettings, train_classifier
from data_pipeline.sources.warc_files import Page, write_warc
from lm_core.user_error import UserError

SETTINGS = DocumentSettings(num_processes=2, harmful=HarmfulSettings(kinds=["toxic"]))
needs_ray = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: .[ray]"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]


def test_without_ray_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    executor = executor_of(DocumentSettings(executor="ray"))
    with pytest.raises(UserError, match=r"run `pip install '\.\[ray\]'`, or use executor = \"loc"):
        list(executor.map(start_poisoned, [["a"]], lost))


@pytest.fixture
def asked(monkeypatch):
    """The arguments of `ray.init`, taken by a stand-in for Ray that then fails to connect."""
    given = {}

    def init(**arguments):
        given.update(arguments)
        raise ConnectionError("nobody answers")

    ray = ModuleType("ray")
    ray.is_initialized, ray.init = lambda: False, init
    monkeypatch.setitem(sys.modules, "ray", ray)
    for name in SENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return given


def test_the_workers_get_the_variables_that_a_build_reads(asked, monkeypatch):
    values = {
        "LM_STAND_INS": "workspace",
        "LM_LANGUAGE_MODEL": "lid.bin",
        "LM_ADULT_MODEL": "adult.bin",
        "LM_TOXIC_MODEL": "toxic.bin",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in {**values, "RAY_ADDRESS": "192.0.2.1:6379", "SECRET": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"cluster at RAY_ADDRESS=192\.0\.2\.1:6379 \(nobody answers"
    ):
        list(RayExecutor(3, Limits(1.0, 1)).map(start_poisoned, [["a"]], lost))
    assert asked["runtime_env"] == {"env_vars": values}
    assert "num_cpus" not in asked, "Ray refuses sizes for a cluster that runs already"


def test_without_an_address_a_cluster_of_the_given_size_starts_here(asked, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"Ray: cannot use a cluster here \(nobody answers\)"):
        list(RayExecutor(3, Limits(1.0, 1)).map(start_poisoned, [["a"]], lost))
    assert list(asked["runtime_env"]["env_vars"]) == ["PYTHONPATH"]
    assert asked["num_cpus"] == 3


def test_every_variable_that_data_pipeline_reads_is_sent():
    """But for LM_QUALITY_MODEL: only `classify_quality` reads it, which no step calls."""
    files = Path(data_pipeline.__file__).parent.rglob("*.py")
    named = {name for file in files for name in re.findall(r'"(LM_[A-Z_]+)"', file.read_text())}
    assert named - {"LM_QUALITY_MODEL"} <= set(SENT_VARIABLES)
    assert {"LM_LANGUAGE_MODEL", "LM_QUALITY_MODEL", "LM_TOXIC_MODEL"} <= named


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors, which the executor finds as one that is connected."""
    import ray

    path = os.pathsep.join(sys.path)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield ray
    ray.shutdown()


class TestWithRay:
    pytestmark = needs_ray

    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_results_come_in_the_order_of_the_batches(self, cluster, num_processes):
        batches = [["naps", "first"], *([f"{n}", f"{n} too"] for n in range(30))]
        executor = RayExecutor(num_processes, Limits(30.0, 3_000_000_000))
        expected = [[item.upper() for item in batch] for batch in batches]
        assert list(executor.map(start_poisoned, batches, lost)) == expected

    def test_each_poisoned_item_is_lost_and_nothing_else_is(self, cluster, tmp_path):
        batches = [["a", "dies", "b"], ["hangs"], [f"once {tmp_path / 'marker'}"], ["c"]]
        executor = RayExecutor(2, Limits(4.0, 3_000_000_000))
        results = list(executor.map(start_poisoned, batches, lost))
        assert results == [
            ["A", ("dies", "killed its worker"), "B"],
            [("hangs", "too slow")],
            [f"once {tmp_path / 'marker'}".upper()],
            ["C"],
        ]

    def test_memory_and_errors_of_the_function(self, cluster):
        executor = RayExecutor(1, Limits(30.0, 1_500_000_000))
        results = list(executor.map(start_poisoned, [["a", "grows", "b"]], lost))
        assert results == [["A", ("grows", "too much memory"), "B"]]
        with pytest.raises(LookupError, match="the function's own error"):
            list(executor.map(start_poisoned, [["a", "fails"]], lost))


BUILD = """
from pathlib import Path
from data_pipeline.executors.document_building import DocumentSettings, build_documents
settings = DocumentSettings.model_validate_json(Path("settings.json").read_text())
build_documents([Path("pages.warc.gz")], Path("documents"), settings)
"""


def ray_workers() -> list[int]:
    """The processes of `_Worker` below this one, as Linux lists them."""
    parents, workers = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(parent)
        if command.startswith(b"ray::_Worker"):
            workers.append(int(folder.name))
    return [pid for pid in workers if os.getpid() in ancestors(pid, parents)]


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


@pytest.fixture(scope="module")
def pages() -> list[tuple[Page, str]]:
    """Fifty stories, a copy, a near duplicate, and two pages that the page steps drop."""
    german = "Der Hund lief langsam am Fluss entlang und dachte an den Winter. " * 8
    given = [html(f"http://x/{n}", story(n)) for n in range(50)]
    given[10:10] = [
        html("http://x/copy", story(40)),
        html("http://x/near", story(4) + "<p>And so on.</p>"),
        html("http://x/german", f"<p>{german}</p>"),
        html("http://x/short", "<p>The page is too short to be of use, and that is it.</p>"),
    ]
    return [(page, "pages.warc.gz") for page in given]


@pytest.fixture(scope="module")
def built_here(pages, tmp_path_factory) -> dict[str, bytes]:
    """The files of the documents of these pages, from local processes."""
    folder = tmp_path_factory.mktemp("local") / "documents"
    counts, _ = build_from_pages(pages, folder, SETTINGS)
    assert [row["dropped"] for row in counts if row["dropped"]] == [
        {"other language": 1},
        {"number of words": 1},
        {"same text": 1},
        {"similar text": 1},
    ]
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestBuildWithRay:
    pytestmark = needs_ray

    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_documents_are_those_of_local_processes(
        self, cluster, pages, built_here, num_processes, tmp_path
    ):
        write_warc(tmp_path / "pages.warc.gz", [page for page, _ in pages])
        settings = SETTINGS.model_copy(update={"executor": "ray", "num_processes": num_processes})
        build_documents([tmp_path / "pages.warc.gz"], tmp_path / "documents", settings)
        assert files(tmp_path / "documents") == built_here

    def test_a_worker_that_is_killed_in_the_middle_changes_nothing(
        self, cluster, pages, built_here, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(document_building, "BATCH_PAGES", 1)
        killed = []

        def given():
            for number, page in enumerate(pages):
                if number >= 40 and not killed:  # Ray has returned results
                    killed.append(ray_workers()[0])
                    os.kill(killed[0], signal.SIGKILL)
                yield page

        settings = SETTINGS.model_copy(update={"executor": "ray"})
        build_from_pages(given(), tmp_path / "documents", settings)
        assert killed
        assert files(tmp_path / "documents") == built_here

    def test_the_cluster_at_ray_address_gets_the_model_that_a_variable_names(
        self, cluster, pages, tmp_path
    ):
        """A model for which every story is toxic, so the build of another process keeps none."""
        texts = [(page.payload.decode(), "toxic") for page, _ in pages[:8]]
        texts += [(f"plain text {number}", "non-toxic") for number in range(8)]
        train_classifier(texts, tmp_path / "toxic.bin", TrainingSettings())
        write_warc(tmp_path / "pages.warc.gz", [page for page, _ in pages])
        (tmp_path / "settings.json").write_text(
            SETTINGS.model_copy(update={"executor": "ray"}).model_dump_json()
        )
        given = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "LM_TOXIC_MODEL": str(tmp_path / "toxic.bin"),
            "RAY_ADDRESS": cluster.get_runtime_context().gcs_address,
        }
        ended = subprocess.run(
            [sys.executable, "-c", BUILD],
            cwd=tmp_path,
            env=os.environ | given,
            capture_output=True,
            text=True,
        )
        assert "the step 'harmful text' dropped all 5" in ended.stderr, ended.stderr
        assert "(toxic (5" in ended.stderr
