"""The step `report`: one page that shows the results of the other steps. It needs none of them, so
it is written even if some failed.
"""

from typing import Any

from lm_core.artifact_paths import RunPaths
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext
from lm_course.report.report_page import write_report


def report(context: StepContext) -> dict[str, Any]:
    """Write the page."""
    if not context.records and not context.failures:
        raise UserError(
            f"{context.root}: no step has been run yet, so there is nothing to report; "
            "run `lm run RECIPE`"
        )
    paths = RunPaths(context.root)
    documents = context.inputs.get("documents", (paths.documents,))[0]  # of the last filter
    summary = write_report(paths, context.records, context.failures, documents)
    return {"path": str(paths.report), **summary}


STEP = Step(
    name="report",
    command="lm report",
    help="Write report.html, a page about the run.",
    run=report,
    describe=lambda s: f"open {s['path']} in a browser",
    reads_all=True,
    writes=("report",),
)
