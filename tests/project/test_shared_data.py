"""A misspelt path to a real input would skip its tests in silence."""

import pytest
import shared_data


@shared_data.needs_shared_data
@pytest.mark.parametrize(
    "path",
    [
        shared_data.REAL_CRAWL,
        *shared_data.CRAWLS,
        shared_data.GPT2_VOCABULARY / "gpt2_vocab.json",
        shared_data.SHAKESPEARE,
        shared_data.SCALING_RUNS / "chinchilla_runs.csv",
    ],
)
def test_the_real_inputs_are_where_the_tests_look(path) -> None:
    assert path.is_file()


def test_they_lie_beside_the_checkout() -> None:
    """Else `needs_shared_data` finds nothing on any machine."""
    assert (shared_data.CHECKOUT / "pyproject.toml").is_file()
