"""The results of `make demo`, from the records of its steps: the figures in README.md.

    python benchmarks/demo_runs.py runs/demo [OTHER_RUN ...] --output benchmarks/demo_results.json

In addition to the steps' own figures, it counts the held-out answers that occur word for word
(ignoring whitespace) in the documents that the model was pretrained on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths, write_json
from lm_core.formats.documents import read_documents


def without_white_space(text: str) -> str:
    return "".join(text.split())


def answers_in_the_pages(paths: RunPaths) -> dict[str, int]:
    """Count the held-out answers, and those of them that occur in the pages."""
    pages = "\0".join(without_white_space(d.text) for d in read_documents(paths.documents))
    rows = (paths.instructions / "sft_heldout.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(row)["messages"][-1]["content"] for row in rows]
    found = sum(without_white_space(answer) in pages for answer in answers)
    return {"heldout_answers": len(answers), "in_the_pages": found}


def figures(run: Path) -> dict[str, Any]:
    """Return seconds and summary of every step of a run."""
    paths = RunPaths(run)
    records = [json.loads(path.read_text()) for path in sorted((run / "steps").glob("*.json"))]
    records = [record for record in records if "summary" in record]
    return {
        "python": records[0]["python"],
        "seconds": {record["step"]: record["seconds"] for record in records},
        "summaries": {
            record["step"]: {k: v for k, v in record["summary"].items() if k != "path"}
            for record in records
        },
        **answers_in_the_pages(paths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.output, [figures(run) for run in options.runs])


if __name__ == "__main__":
    main()
