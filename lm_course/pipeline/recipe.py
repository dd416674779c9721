"""A recipe: one TOML file that lists the steps of a run and has a section of settings for each. The
class of a section is defined beside the code that it configures.
"""

from collections.abc import Mapping
from typing import Any, Self

import pydantic

from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_course.pipeline.step_catalogue import WHOLE_PATH, load_steps, named


class RunSettings(Settings):
    """The `[run]` section: the steps to run, and where the artifacts go.

    Attributes:
        name: the run's folder.
        folder: the folder of all runs, relative to the current folder or, inside a checkout, to
            its root.
        steps: the steps in their order; `lm steps` shows what each writes.
    """

    name: str = pydantic.Field(pattern=r"^[\w.-]+$")
    folder: str = "runs"
    steps: list[str] = pydantic.Field(default=list(WHOLE_PATH), min_length=1)


class AnyRecipe(Settings):
    """The part that every recipe has, whatever steps exist.

    Attributes:
        run: see RunSettings.
    """

    run: RunSettings

    @property
    def sections(self) -> Mapping[str, Settings]:
        """Name -> settings, for all sections but those that no step of this recipe needs and that
        have no defaults.
        """
        found = {name: getattr(self, name) for name in type(self).model_fields if name != "run"}
        return {name: settings for name, settings in found.items() if settings is not None}

    @pydantic.model_validator(mode="after")
    def _sections_belong_to_steps(self) -> Self:
        for name in self.run.steps:
            for section in named(name).sections:
                if section not in self.sections:
                    raise UserError(
                        f"[{section}] is missing; the step {name!r} needs it, and it has no default"
                    )
        for step in load_steps().values():
            given = [section for section in step.settings if section in self.model_fields_set]
            if given and step.name not in (*self.run.steps, *WHOLE_PATH):
                raise UserError(
                    f"[{given[0]}] is given, but run.steps does not list {step.name!r}: the step "
                    "would not run"
                )
        return self


def _field(settings: type[Settings]) -> tuple[Any, Any]:
    """Return a section's field. A section that is not given has its defaults; it is None if there
    is a setting without a default, and then its steps cannot run.
    """
    if any(field.is_required() for field in settings.model_fields.values()):
        return settings | None, None
    return settings, pydantic.Field(default_factory=settings)


Recipe = pydantic.create_model(
    "Recipe",
    __base__=AnyRecipe,
    **{
        section: _field(settings)
        for step in load_steps().values()
        for section, settings in step.settings.items()
    },
)
