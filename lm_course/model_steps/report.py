"""The step `report`: one page that shows what the others left. It needs nothing, and is written
whatever failed.
"""

from typing import Any

from lm_core.artifact_paths import RunPaths
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext
from lm_course.report.report_page import write_report


def report(context: StepContext) -> dict[str, Any]:
    """The page with all of it."""
    if not context.records and not context.failures:
        raise UserError(
            f"{context.root}: no step of this run has been run, so there is nothing to report; "
            "run `lm run RECIPE`"
        )
    paths = RunPaths(context.root)
    summary = write_report(paths, context.records, context.failures)
    return {"path": str(paths.report), **summary}


STEP = Step(
    name="report",
    command="lm report",
    help="Write report.html.",
    run=report,
    describe=lambda s: f"open {s['path']} in a browser",
    reads_all=True,
    writes=("report",),
)
