"""The Ray executor: one line if Ray is missing, and the same results as the local one if it is not.

The tests with Ray start a cluster, so they are slow.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers import the module below by its name

from poisoned_items import lost, start_poisoned

from data_pipeline.executors.document_building import DocumentSettings, executor_of
from data_pipeline.executors.executor import Limits
from data_pipeline.executors.ray_executor import RayExecutor
from lm_core.user_error import UserError

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
