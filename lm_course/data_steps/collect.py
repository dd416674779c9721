"""The step `collect`: write this machine's Python documentation as a WARC file, or check that your
own WARC files exist.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from data_pipeline.sources.page_collection import CollectSettings, write_python_documentation
from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext


class PagesSettings(Settings):
    """The `[pages]` section: the pages that the documents are made from.

    Attributes:
        warc_files: your own WARC files; if empty, this machine's Python documentation is used.
    """

    warc_files: list[str] = pydantic.Field(default_factory=list)


def own_warc_files(sections: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Return the recipe's own files, which replace those that would be collected."""
    given = sections["pages"].warc_files
    return {"pages": tuple(Path(name) for name in given)} if given else {}


def collect(context: StepContext) -> dict[str, Any]:
    """Render this machine's Python documentation, or check that the recipe's own WARC files
    exist.
    """
    own = own_warc_files({"pages": context.section("pages")})
    for path in own.get("pages", ()):
        if not path.is_file():
            raise UserError(f"{path}: no such WARC file; correct pages.warc_files in the recipe")
    if own:
        size = sum(path.stat().st_size for path in own["pages"])
        return {"what": "WARC files given", "bytes": size}
    summary = write_python_documentation(context.output("pages"), context.settings)
    pages = f"{summary['pages']:,} pages and {summary['readmes']} READMEs"
    return {"what": pages, "bytes": summary["payload_bytes"], **summary}


STEP = Step(
    name="collect",
    command="lm data collect",
    help="Write this machine's Python documentation as a WARC file.",
    run=collect,
    describe=lambda s: f"{s['what']}, {s['bytes'] / 1e6:.1f} MB",
    settings={"collect": CollectSettings, "pages": PagesSettings},
    writes=("pages",),
    users_own=own_warc_files,
)
