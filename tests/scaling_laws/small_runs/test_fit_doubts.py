"""Each kind of undetermined table raises its own doubt, and a good table raises none."""

import itertools

import numpy as np
import pytest

from scaling_laws.loss_surface import LossSurface, predict_loss
from scaling_laws.parametric_fit import LARGEST_EXPONENT, fit_surface
from scaling_laws.small_runs.fit_doubts import rising_losses
from scaling_laws.small_runs.runs_csv import FinishedRun

# A fit calls small functions tens of thousands of times; test_parametric_fit.py checks their types.
pytestmark = pytest.mark.usefixtures("unchecked_types")

TRUE = LossSurface(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
SIZES, TOKENS = (2e7, 1e8, 5e8, 2.5e9), (5e8, 2e9, 8e9, 3.2e10)
NINE_SMALL_RUNS = [  # of a demo whose fit once ended at alpha = 202 and A = inf
    (155808, 39936, 6.635176), (155808, 99328, 6.425025), (155808, 249856, 6.010085),
    (400832, 39936, 6.572387), (400832, 99328, 6.193402), (400832, 249856, 5.734290),
    (1262720, 39936, 6.662134), (1262720, 99328, 6.182604), (1262720, 249856, 5.541140),
]  # fmt: skip
NUM_REFINED = 8  # starts; the doubts are about the runs, whichever optimum is found


def grid(loss_of=lambda n, d: predict_loss(TRUE, n, d), sizes=SIZES, tokens=TOKENS):
    return [FinishedRun(n, d, loss_of(n, d)) for n, d in itertools.product(sizes, tokens)]


def doubts(runs: list[FinishedRun], num_bootstraps: int = 0) -> str:
    return "\n".join(fit_surface(runs, NUM_REFINED, num_bootstraps=num_bootstraps).doubts)


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_a_good_table_is_not_doubted(noise: float) -> None:
    generator = np.random.default_rng(0)
    runs = grid(lambda n, d: predict_loss(TRUE, n, d) * (1 + noise * generator.normal()))
    fit = fit_surface(runs, NUM_REFINED, num_bootstraps=30)
    assert fit.settled, fit.doubts


def test_one_wild_run_of_sixteen_is_no_reason_for_doubt() -> None:
    runs = grid()
    runs[5] = FinishedRun(runs[5].parameters, runs[5].tokens, 2 * runs[5].loss)
    assert "lies" not in doubts(runs)


def test_the_nine_small_runs() -> None:
    fit = fit_surface([FinishedRun(*run) for run in NINE_SMALL_RUNS], NUM_REFINED)
    assert 0 <= fit.alpha <= LARGEST_EXPONENT
    text = "\n".join(fit.doubts)
    assert (
        "the loss does not always fall with size: at 39,936 tokens it rises from 6.572 to 6.662 "
        "between 400,832 and 1,262,720 parameters (1 of 6 such pairs rise)"
    ) in text
    assert "the loss hardly falls with size" in text
    assert text.count("one run in ten") == 1, "said once"
    assert "alpha came to 2, outside the range of published laws" in text
    assert "E fell to" in text
    assert "always fall with tokens" not in text


@pytest.mark.parametrize(
    ("loss_of", "expected"),
    [
        (lambda n, d: 3.0, ["hardly falls with size", "hardly falls with tokens"]),
        (lambda n, d: predict_loss(TRUE, 1e9, d), ["hardly falls with size"]),
        (lambda n, d: predict_loss(TRUE, n, 1e10), ["hardly falls with tokens"]),
        (lambda n, d: n**0.1, ["does not always fall with size", "hardly falls with size"]),
        (lambda n, d: d**0.1, ["does not always fall with tokens", "hardly falls with tokens"]),
        (lambda n, d: 3 if n < 5e8 else 2, ["one run in ten is"]),
        (lambda n, d: 1.7 + (n < 1e8) + 1500 / d**0.37, ["alpha came to 2"]),
        (lambda n, d: 400 / n**0.34 + 1500 / d**0.37, ["E fell to"]),
        (lambda n, d: 1.7 + 400 / n**0.01 + 1500 / d**0.37, ["alpha came to", "more sizes"]),
    ],
)
def test_every_reason_is_said(loss_of, expected: list[str]) -> None:
    found = doubts(grid(loss_of))
    assert [reason for reason in expected if reason not in found] == [], found


def test_runs_far_off_every_surface() -> None:
    generator = np.random.default_rng(0)
    found = doubts(grid(lambda n, d: predict_loss(TRUE, n, d) * (1 + generator.uniform(-0.2, 0.2))))
    assert "one run in ten is" in found


def test_sizes_and_tokens_that_hardly_differ() -> None:
    found = doubts(grid(sizes=(1e8, 1e8 + 1, 1e8 + 2), tokens=(1e9, 1.5e9)))
    assert "the largest number of parameters is only 1 times the smallest" in found
    assert "the largest number of tokens is only 1.5 times the smallest" in found


def test_wide_intervals_are_said() -> None:
    generator = np.random.default_rng(0)
    runs = grid(
        lambda n, d: predict_loss(TRUE, n, d) * (1 + 0.05 * generator.normal()),
        sizes=(2e7, 5e7, 1e8),
        tokens=TOKENS[:3],
    )
    fit = fit_surface(runs, NUM_REFINED, num_bootstraps=40)
    low, high = fit.intervals["beta"]
    assert high > 1.5, "otherwise this table is too good for the test"
    assert 0.05 < fit.beta < 1.5, "so that only the interval raises a doubt"
    assert f"beta may be anything from {low:.2g} to {high:.2g}: vary the token counts" in (
        "\n".join(fit.doubts)
    )


def test_as_many_runs_as_unknowns_say_nothing() -> None:
    """With six noisy runs, the surface passes through five of them, so that nothing looks wrong."""
    runs = grid(sizes=SIZES[:3], tokens=TOKENS[:2])
    assert "6 runs are barely more than the five unknowns" in doubts(runs)
    assert "6 runs are barely more than the five unknowns" in doubts(runs * 2), (
        "repeats do not help"
    )
    assert "hardly more" not in doubts(grid(sizes=SIZES[:3], tokens=TOKENS[:3]))


def test_rises_are_counted_between_neighbours_and_repeats_are_one_run() -> None:
    rows = [(1, 10, 5.0), (2, 10, 4.0), (2, 10, 4.2), (2, 10, 9.0), (3, 10, 4.1), (3, 20, 1.0)]
    assert rising_losses([FinishedRun(*row) for row in rows]) == []
    rows[4] = (3, 10, 4.3)  # above 4.2, the median of the three repeats
    assert rising_losses([FinishedRun(*row) for row in rows]) == [
        "the loss does not always fall with size: at 10 tokens it rises from 4.2 to 4.3 between 2 "
        "and 3 parameters (1 of 2 such pairs rise)"
    ]


def test_a_dense_table_is_not_doubted_for_its_noise() -> None:
    """Sizes 14 % apart with noise below 1 % of the loss: the loss often rises between
    neighbours.
    """
    generator = np.random.default_rng(0)
    runs = grid(
        lambda n, d: predict_loss(TRUE, n, d) * (1 + 0.01 * generator.normal()),
        sizes=np.geomspace(1e6, 1e10, 70),
        tokens=np.geomspace(1e9, 1e12, 20),
    )
    assert rising_losses(runs) == []
    rising = [FinishedRun(r.parameters, r.tokens, r.loss * r.parameters**0.05) for r in runs]
    assert "does not always fall with size" in rising_losses(rising)[0]


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_tokens_that_only_grow_with_size_are_doubted(power: float) -> None:
    def run(n: float, d: float) -> FinishedRun:
        return FinishedRun(n, d, predict_loss(TRUE, n, d))

    sizes = np.geomspace(1e7, 1e10, 10)
    line = [run(n, 20 * n**power * 1e7 ** (1 - power)) for n in sizes]
    assert "tokens grow with size by one rule (within a factor of 1)" in doubts(line)
    assert "by one rule" not in doubts(line + [run(n, 1e11) for n in sizes])
    assert "by one rule" not in doubts([run(n, 1e19 / n) for n in sizes]), "they trade places"
