"""The surface at a point, by hand and where a power of N would overflow; bootstrap intervals."""

import math

import pytest

from scaling_laws.loss_surface import LossSurface, predict_loss


def test_prediction_by_hand() -> None:
    surface = LossSurface(E=1.0, A=8.0, B=27.0, alpha=0.5, beta=1 / 3)
    assert predict_loss(surface, 16, 27) == pytest.approx(1 + 2 + 9)
    assert predict_loss(LossSurface(E=0.0, A=8.0, B=0.0, alpha=0.5, beta=1), 16, 1) == (
        pytest.approx(2)
    ), "a term of zero adds nothing"


def test_powers_that_no_float_can_hold() -> None:
    # The fit of the nine runs that once ended `make demo` with an OverflowError: N^202.
    steep = LossSurface(E=1.0, A=2.0, B=15.0, alpha=202.13, beta=0.08)
    assert predict_loss(steep, 400_832, 40_000) == pytest.approx(1 + 15 / 40_000**0.08)
    assert predict_loss(steep, 1e-3, 40_000) == math.inf
    # A and N^alpha are 1e301 and 1e300 here, and 10 at twice that exponent.
    assert predict_loss(LossSurface(E=0, A=1e301, B=0, alpha=10, beta=0), 1e30, 1) == (
        pytest.approx(10)
    )


@pytest.mark.parametrize("point", [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.nan)])
def test_points_that_no_model_has(point: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="tokens; both must be positive"):
        predict_loss(LossSurface(E=1, A=1, B=1, alpha=1, beta=1), *point)


def test_intervals_hold_the_middle_95_percent_of_the_bootstraps() -> None:
    drawn = tuple(LossSurface(E=i / 100, A=0, B=0, alpha=1, beta=1) for i in range(201))
    surface = LossSurface(E=1, A=0, B=0, alpha=1, beta=1, resampled=drawn)
    assert surface.intervals["E"] == pytest.approx((0.05, 1.95))
    assert surface.intervals["alpha"] == (1, 1)
    assert surface.prediction_interval(5, 5) == pytest.approx((0.05, 1.95))
    bare = LossSurface(E=1, A=0, B=0, alpha=1, beta=1)
    assert (bare.intervals, bare.prediction_interval(5, 5)) == ({}, None)
