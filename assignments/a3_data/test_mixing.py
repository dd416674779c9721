"""a3_data.18: weights from sizes, exact parts of a budget, epochs, and documents of a part."""

import pytest

pytestmark = pytest.mark.task("a3_data.18")
MODULE = "data_pipeline.mixing"


@pytest.mark.parametrize(
    ("sizes", "temperature", "expected"),
    [
        ({"english": 900, "korean": 100}, 1, {"english": 0.9, "korean": 0.1}),
        ({"english": 900, "korean": 100}, 2, {"english": 0.75, "korean": 0.25}),
        ({"english": 900, "korean": 100}, 0.5, {"english": 81 / 82, "korean": 1 / 82}),
        ({"a": 7, "b": 5000, "c": 1}, float("inf"), {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ({"a": 10**15, "b": 10**15}, 0.01, {"a": 0.5, "b": 0.5}),
        ({"b": 1, "a": 10**15}, 0.01, {"b": 0.0, "a": 1.0}),
        ({}, 2, {}),
    ],
    ids=["one", "two", "half", "infinity", "near-zero", "smallest-first", "no-source"],
)
def test_weights_of_a_temperature(implementation, a3_data, sizes, temperature, expected):
    what = f"temperature_weights({sizes}, {temperature})"
    try:
        got = implementation(MODULE).temperature_weights(sizes, temperature)
    except OverflowError:
        raise a3_data.GradedFailure(
            f"{what}: a power is too large for a float; divide each size by the largest one first"
        ) from None
    a3_data.expect(list(got), list(expected), f"the sources of {what}")
    inverse = {source: size**temperature for source, size in sizes.items() if temperature < 9}
    total = sum(inverse.values())
    causes = {
        "the power is 1 / temperature, not the temperature": (
            [power / total for power in inverse.values()] if total else [0.0]
        ),
        "the sum of the weights is 1": lambda values: abs(sum(values) - 1) > 1e-6,
    }
    numbers = list(got.values())
    a3_data.close(numbers, list(expected.values()), 1e-11, 1e-9, what, causes)


@pytest.mark.parametrize(
    ("sizes", "temperature", "named"),
    [
        ({"a": 1}, 0, "0"),
        ({"a": 1}, -2.5, "-2.5"),
        ({"a": 1}, float("nan"), "nan"),
        ({"a": 1, "empty": 0}, 1, "empty"),
    ],
)
def test_sizes_and_temperatures_that_are_refused(
    implementation, a3_data, sizes, temperature, named
):
    module = implementation(MODULE)
    what = f"temperature_weights({sizes}, {temperature})"
    a3_data.raises(
        ValueError, lambda: module.temperature_weights(sizes, temperature), what, [named]
    )


IN_ORDER = "of sources that lost the same, the earlier in the order of `weights` come first"
ROUNDED_DOWN = "what is left after rounding down is given out too: the sum is exactly the total"


DECIMAL = "all digits that Python prints of a weight count: Fraction(str(weight)), without rounding"
COMPUTE = "compute the numbers, and make no list with a member for each document or token"


@pytest.mark.parametrize(
    ("total", "weights", "expected", "causes"),
    [
        (
            10,
            {"web": 0.55, "books": 0.3, "code": 0.15},
            {"web": 6, "books": 3, "code": 1},
            {
                ROUNDED_DOWN: {"web": 5, "books": 3, "code": 1},
                "each was rounded, so the sum is not the total": {"web": 6, "books": 3, "code": 2},
                IN_ORDER: {"web": 5, "books": 3, "code": 2},
            },
        ),
        (
            10,
            {"code": 0.15, "web": 0.55, "books": 0.3},
            {"code": 2, "web": 5, "books": 3},
            {
                ROUNDED_DOWN: {"code": 1, "web": 5, "books": 3},
                f"{IN_ORDER}, whatever their names and weights": {"code": 1, "web": 6, "books": 3},
            },
        ),
        (
            10,
            {"a": 0.21, "b": 0.39, "c": 0.4},
            {"a": 2, "b": 4, "c": 4},
            {
                "what is left goes to the source that lost most, not to the first": {
                    "a": 3, "b": 3, "c": 4
                },
                ROUNDED_DOWN: {"a": 2, "b": 3, "c": 4},
            },
        ),
        (
            5,
            {"x": 1, "y": 1, "z": 1},
            {"x": 2, "y": 2, "z": 1},
            {
                ROUNDED_DOWN: {"x": 1, "y": 1, "z": 1},
                "each source gets at most one of what is left": lambda got: max(got.values()) > 2,
                IN_ORDER: lambda got: sorted(got.values()) == [1, 2, 2],
            },
        ),
        (
            100,
            {"z": 3, "a": 1, "none": 0},
            {"z": 75, "a": 25, "none": 0},
            {"weights have any sum; divide by it": {"z": 300, "a": 100, "none": 0}},
        ),
        (
            3,
            {"x": 0.1, "y": 0.2},
            {"x": 1, "y": 2},
            {
                "0.1 is a decimal number here: with Fraction(str(weight)), the shares are exactly "
                "1 and 2": lambda _: True
            },
        ),
        (
            10**18 + 1,
            {"x": 0.3, "y": 0.7},
            {"x": 3 * 10**17, "y": 7 * 10**17 + 1},
            {"floats have 16 digits: compute with whole numbers or Fraction": lambda _: True},
        ),
        (
            10**18,
            {"x": 0.1, "y": 0.123456789012345},
            {"x": 447513814379904304, "y": 552486185620095696},
            {DECIMAL: lambda _: True},
        ),
        (0, {"x": 0.3, "y": 0.7}, {"x": 0, "y": 0}, {}),
    ],
    ids=["half", "smaller-first", "largest-remainder", "ties", "any-sum", "decimal", "large",
         "all-digits", "nothing"],
)  # fmt: skip
def test_exact_parts(implementation, a3_data, total, weights, expected, causes):
    apportion = implementation(MODULE).apportion
    what = f"apportion({total}, {weights})"
    got = a3_data.with_little_memory(lambda: apportion(total, weights), what, COMPUTE)
    a3_data.expect(got, expected, what, causes)


@pytest.mark.parametrize(
    ("weights", "named"),
    [({"a": 1, "web": -0.5}, "web"), ({"a": 1, "web": float("nan")}, "web"),
     ({"a": 1, "web": float("inf")}, "web"), ({"a": 0, "b": 0.0}, "a"), ({}, "")],
    ids=["negative", "nan", "infinite", "all-zero", "no-source"],
)  # fmt: skip
def test_weights_that_are_refused(implementation, a3_data, weights, named):
    module = implementation(MODULE)
    a3_data.raises(
        ValueError, lambda: module.apportion(10, weights), f"apportion(10, {weights})", [named]
    )


@pytest.mark.parametrize(
    ("sizes", "weights", "budget", "max_epochs", "expected", "causes"),
    [
        (
            {"web": 100, "books": 10},
            {"web": 1, "books": 1},
            80,
            2,
            {"web": 60, "books": 20},
            {
                "what a source cannot give is divided among the others": {"web": 40, "books": 20},
                "books have 10, and are read at most 2 times": {"web": 40, "books": 40},
                "books may be read 2 times: 20": {"web": 70, "books": 10},
            },
        ),
        (
            {"web": 100, "books": 10},
            {"web": 1, "books": 1},
            80,
            None,
            {"web": 40, "books": 40},
            {"without max_epochs, a source may be read any number of times": lambda _: True},
        ),
        (
            {"a": 100, "b": 100, "c": 10},
            {"a": 3, "b": 1, "c": 4},
            80,
            1,
            {"a": 53, "b": 17, "c": 10},
            {
                "the rest is divided by the weights of the others, not in equal parts": {
                    "a": 35, "b": 35, "c": 10
                },
                IN_ORDER: {"a": 52, "b": 18, "c": 10},
            },
        ),
        (
            {"a": 40, "b": 1000, "c": 10},
            {"a": 3, "b": 1, "c": 4},
            100,
            1,
            {"a": 40, "b": 50, "c": 10},
            {
                "after one source is exhausted, another one is: divide again until none is":
                    {"a": 67, "b": 23, "c": 10},
                "what was left over was not divided again": {"a": 40, "b": 23, "c": 10},
            },
        ),
        (
            {"a": 3, "b": 5, "c": 1000},
            {"a": 1, "b": 2, "c": 0},
            100,
            1.5,
            {"a": 4, "b": 7, "c": 0},
            {"a source with the weight 0 gives nothing, also if the others are exhausted":
                lambda got: got.get("c", 0) > 0,
             "a part of an epoch is rounded down: int(3 * 1.5) = 4": lambda _: True},
        ),
        (
            {"a": 10, "b": 100},
            {"a": 1, "b": 1},
            1000,
            0.7,
            {"a": 7, "b": 70},
            {"0.7 is a decimal number: 10 * 0.7 is exactly 7": {"a": 6, "b": 70}},
        ),
        (
            {"a": 3, "b": 5},
            {"a": 1, "b": 1},
            4,
            0,
            {"a": 0, "b": 0},
            {"a max_epochs of 0 is a limit, and not None": {"a": 2, "b": 2}},
        ),
        (
            {"a": 4, "b": 5, "c": 6},
            {"a": 1, "b": 3, "c": 3},
            11,
            1,
            {"a": 2, "b": 5, "c": 4},
            {
                "a source whose part is exactly its limit is closed, too, and the rest is divided "
                "again": {"a": 1, "b": 5, "c": 5}
            },
        ),
    ],
    ids=["exhausted", "no-limit", "by-weight", "one-after-the-other", "all-exhausted", "decimal",
         "no-epoch", "at-the-limit"],
)  # fmt: skip
def test_a_budget(implementation, a3_data, sizes, weights, budget, max_epochs, expected, causes):
    got = implementation(MODULE).budget_per_source(sizes, weights, budget, max_epochs)
    what = f"budget_per_source({sizes}, {weights}, {budget}, max_epochs={max_epochs})"
    a3_data.expect(got, expected, what, causes)


def test_without_max_epochs(implementation, a3_data):
    got = implementation(MODULE).budget_per_source({"a": 1, "b": 1}, {"a": 1, "b": 3}, 8)
    a3_data.expect(got, {"a": 2, "b": 6}, "budget_per_source without max_epochs")


@pytest.mark.parametrize(
    ("documents", "amount", "size", "expected"),
    [
        (10, 1700, 1000, 17),
        (3, 0, 10, 0),
        (3, 1, 10, 1),
        (3, 5, 10, 2),
        (5, 5, 10, 3),
        (3, 15, 10, 5),
        (10, 1000, 1000, 10),
        (7, 40, 13, 22),
        (10**18, 3, 10, 3 * 10**17),
        (10**17 + 1, 7, 7, 10**17 + 1),
        (10**13 + 1, 201448130331729857, 10**18 + 9, 2014481303317),
    ],
)
def test_documents_of_an_amount(implementation, a3_data, documents, amount, size, expected):
    documents_served = implementation(MODULE).documents_served
    what = f"documents_served({documents}, {amount}, {size})"
    call = lambda: documents_served(documents, amount, size)  # noqa: E731
    got = a3_data.with_little_memory(call, what, COMPUTE)
    down = documents * amount // size
    causes = {
        "a source that gives something serves at least one document": (
            lambda got: got == 0 and 0 < documents * amount < size
        ),
        "a part of an epoch counts: 1.7 epochs of 10 documents are 17": (
            lambda got: got == documents * (amount // size) != down
        ),
        "round to the nearest whole number, and halves up": down,
        "floats have 16 digits, and Decimal has 28 by default: compute with whole numbers": (
            lambda got: documents > 10**12
        ),
        "halves are rounded up; Python's round() rounds them to the even number": round(
            documents * amount / size
        ),
        "a source that gives nothing serves no document": 1,
    }
    a3_data.expect(got, expected, what, causes)
