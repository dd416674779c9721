"""The variants of a pipeline: all of its filters, and the same without some of them.

A filter is a step of `lm data build` that is on, or one of several rule sets. What this leaves out:
the thresholds within a filter.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.executors.comparing_steps import comparing_steps_of
from data_pipeline.executors.document_building import OPTIONAL_STEPS, DocumentSettings
from data_pipeline.executors.page_steps import page_steps_of
from data_pipeline.rule_sets.rule_verdicts import EVERY_RULE_SET
from lm_core.user_error import UserError

FULL = "nothing"  # is left out
ALL = "all filters"
RULES = "quality rules"


@dataclass(frozen=True)
class Variant:
    """A pipeline.

    Attributes:
        left_out: the filters that it lacks, joined by " + "; FULL for none.
        settings: with which it is run.
    """

    left_out: str
    settings: DocumentSettings

    @property
    def name(self) -> str:
        """The name of its files."""
        return self.left_out.replace(" + ", "-and-").replace(" ", "_")


def filters_of(settings: DocumentSettings) -> list[str]:
    """Return the filters that are on, in their order: steps but for the extraction of text, and
    after the quality rules their rule sets, if there are several.
    """
    steps = [step.name for step in (*page_steps_of(settings), *comparing_steps_of(settings))]
    found = [name for name in steps if name in OPTIONAL_STEPS]
    if RULES in found and len(settings.quality.rules) > 1:
        place = found.index(RULES) + 1
        found[place:place] = settings.quality.rules
    return found


def without(settings: DocumentSettings, filters: Sequence[str]) -> DocumentSettings:
    """Return the settings of a pipeline that lacks these filters; ALL stands for every one."""
    if ALL in filters:
        return settings.model_copy(update={"leave_out": OPTIONAL_STEPS})
    rules = [name for name in settings.quality.rules if name not in filters]
    steps = [name for name in filters if name in OPTIONAL_STEPS]
    changes = {
        "quality": settings.quality.model_copy(update={"rules": rules}),
        "leave_out": [*settings.leave_out, *steps],
    }
    return settings.model_copy(update=changes)


def variants_of(settings: DocumentSettings, given: Sequence[str] | None = None) -> list[Variant]:
    """Return the full pipeline, and a variant for each of `given`.

    Args:
        settings: of the full pipeline.
        given: each the name of a filter, or several joined by "+", which are left out together. "-"
            and "_" may stand for a space. None for every filter, one at a time.

    Raises:
        UserError: a name is not that of a filter that is on.
    """
    there = filters_of(settings)
    if not there:
        raise UserError("every filter is left out already; change documents.leave_out")
    variants = [Variant(FULL, settings)]
    for names in given or there:
        filters = list(
            dict.fromkeys(_filter_named(name, names, there) for name in names.split("+"))
        )
        variant = Variant(" + ".join(filters), without(settings, filters))
        if variant not in variants:
            variants.append(variant)
    return variants


def _filter_named(name: str, given: str, there: Sequence[str]) -> str:
    known = {_plain(each): each for each in [*there, ALL, "all"]}
    plain = _plain(name)
    if plain in known:
        return ALL if plain == "all" else known[plain]
    off = {_plain(each): each for each in [*OPTIONAL_STEPS, *EVERY_RULE_SET]}
    if plain in off:
        raise UserError(
            f"--leave-out {given}: the recipe does not use the filter '{off[plain]}'; those that "
            f"it uses are {', '.join(there)}"
        )
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    hint = f"did you mean '{known[near[0]]}'?" if near else f"expected one of {', '.join(there)}"
    raise UserError(f"--leave-out {given}: no such filter; {hint}")


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())
