"""The step `collect`: write this machine's Python documentation as a WARC file, or look for your
own pages.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.sources.page_collection import CollectSettings, write_python_documentation
from data_pipeline.sources.page_files import PagesSettings, page_files
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext


def own_pages(sections: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Return the recipe's own files and folders, which replace what would be collected."""
    paths = sections["pages"].own_paths
    return {"pages": paths} if paths else {}


def collect(context: StepContext) -> dict[str, Any]:
    """Render this machine's Python documentation, or check that the recipe's own files exist."""
    paths = context.section("pages").own_paths
    if paths:
        return _found(paths, context.root)
    summary = write_python_documentation(context.output("pages"), context.settings)
    pages = f"{summary['pages']:,} pages and {summary['readmes']} READMEs"
    return {"what": pages, "bytes": summary["payload_bytes"], **summary}


def _found(paths: tuple[Path, ...], root: Path) -> dict[str, Any]:
    for path in paths:
        if root.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"{path}: contains the run's own folder {root}, whose files are not pages; give "
                "a folder that does not"
            )
    files = page_files(paths)
    size = sum(file.path.stat().st_size for file in files if file.path.is_file())
    return {
        "what": "1 file given" if len(files) == 1 else f"{len(files):,} files given",
        "bytes": size,
    }


STEP = Step(
    name="collect",
    command="lm data collect",
    help="Write this machine's Python documentation as a WARC file.",
    run=collect,
    describe=lambda s: f"{s['what']}, {s['bytes'] / 1e6:.1f} MB",
    settings={"collect": CollectSettings, "pages": PagesSettings},
    writes=("pages",),
    users_own=own_pages,
)
