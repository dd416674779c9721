"""The step `collect`: write this machine's Python documentation as a WARC file, or look for your
own pages.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.object_stores.listing import write_listing
from data_pipeline.object_stores.store_files import store_files
from data_pipeline.sources.page_collection import CollectSettings, write_python_documentation
from data_pipeline.sources.page_files import PagesSettings, page_files
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext


def own_pages(sections: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Return the recipe's own files and folders, which replace what would be collected."""
    paths = sections["pages"].own_paths
    return {"pages": paths} if paths else {}


def collect(context: StepContext) -> dict[str, Any]:
    """Render this machine's Python documentation, check that the recipe's own files exist, or list
    those of an object store.
    """
    given = context.section("pages")
    if given.own_urls:
        files = store_files(given.own_urls)
        write_listing(context.output("pages"), files)
        return _summary([file.size for file in files], "listed")
    if given.own_paths:
        return _found(given.own_paths, context.root)
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
    sizes = [file.path.stat().st_size if file.path.is_file() else 0 for file in files]
    return _summary(sizes, "given")


def _summary(sizes: list[int], how: str) -> dict[str, Any]:
    number = "1 file" if len(sizes) == 1 else f"{len(sizes):,} files"
    return {"what": f"{number} {how}", "bytes": sum(sizes)}


STEP = Step(
    name="collect",
    command="lm data collect",
    help="Write this machine's Python documentation as a WARC file.",
    run=collect,
    describe=lambda s: f"{s['what']}, {s['bytes'] / 1e6:.1f} MB",
    settings={"collect": CollectSettings, "pages": PagesSettings},
    writes=("pages",),
    users_own=own_pages,
    only_looks=lambda sections: bool(sections["pages"].paths),
)
