"""TOML text from settings: tomllib reads the same values from it."""

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lm_course.competition.recipe_text import recipe_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans()
PLAIN |= st.floats(allow_nan=False)
VALUES = PLAIN | st.lists(PLAIN, max_size=3)
SECTIONS = st.dictionaries(
    TEXT, st.recursive(VALUES, lambda inner: st.dictionaries(TEXT, inner, max_size=3), max_leaves=5)
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, SECTIONS, max_size=3))
def test_the_text_holds_the_values(recipe: dict[str, dict[str, Any]]) -> None:
    assert tomllib.loads(recipe_text(recipe)) == recipe


def test_it_is_readable_and_has_no_none() -> None:
    training = {"steps": 20, "learning_rate": 1e-05, "seed": None}
    assert recipe_text(
        {"run": {"name": "a"}, "pretrain": {"device": "cpu", "training": training}}
    ) == (
        '[run]\nname = "a"\n\n[pretrain]\ndevice = "cpu"\n\n'
        "[pretrain.training]\nsteps = 20\nlearning_rate = 1e-05\n"
    )
