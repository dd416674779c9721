"""report.html: one self-contained page with every step's figures, plots and samples.

The page needs no network and no script: it contains its styles and plots. This module prepares the
parts as plain values; report.html.jinja turns them into the page. If a step failed or was not run,
its part is missing, and the top of the page says so.

What this leaves out: figures of its own. Everything that it shows was written by an earlier step.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from lm_core.artifact_paths import RunPaths, atomic_file
from lm_core.formats.documents import read_counts
from lm_core.formats.metric_log import read_metrics
from lm_core.progress import clock
from lm_core.user_error import UserError
from lm_course.error_lines import explain
from lm_course.pipeline.step_failures import StepFailure
from lm_course.report import documents_part, report_plots

FOLDER = Path(__file__).parent
Part = dict[str, Any]  # "anchor", "title", "kind" (a macro of the template) and its values
Records = dict[str, dict[str, Any]]


def write_report(
    paths: RunPaths,
    records: Records,
    failures: Sequence[StepFailure] = (),
    documents: Path | None = None,
) -> dict[str, Any]:
    """Write the page. A part that cannot be prepared is missing from it; its error is raised after
    the page has been written.

    Args:
        paths: the run.
        records: the record that `recipe_runner` keeps of each successful step, by step name.
        failures: the steps that failed or were not run, in the order of the steps.
        documents: the folder of documents that the last filter wrote; by default the run's first.

    Returns:
        {"sections": number of parts, "bytes": size of the page}.
    """
    documents = documents or paths.documents
    parts, errors = _parts(paths, records, failures, documents)
    page = _template().render(
        name=paths.root.name,
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
        num_steps=len(records),
        time=clock(sum(record["seconds"] for record in records.values())),
        python=next(iter(records.values()))["python"] if records else "?",
        cards=_cards(records, documents),
        parts=parts,
    )
    with atomic_file(paths.report, "w") as file:
        file.write(page)
    if errors:
        raise errors[0]
    return {"sections": len(parts), "bytes": len(page.encode())}


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.jinja")


def _parts(
    paths: RunPaths, records: Records, failures: Sequence[StepFailure], documents: Path
) -> tuple[list[Part], list[Exception]]:
    """Return the parts whose steps have a result, and the errors of those that could not be
    prepared.
    """
    left_out = {failure.step for failure in failures}
    seconds = records.get("documents", {}).get("summary", {}).get("step_seconds", {})
    stages = [stage for stage in TRAINING_STAGES if stage not in left_out]
    makers: list[tuple[str, Callable[[], Part | None]]] = [
        ("samples", lambda: _samples(paths)),
        ("", lambda: _before_and_after(paths, stages)),
        ("documents", lambda: documents_part.funnel(documents, seconds)),
        ("documents", lambda: documents_part.documents_shown(documents, paths.documents)),
        ("documents", lambda: documents_part.examples(paths.documents)),
        ("tokenizer", lambda: _tokenizer(records)),
        *((stage, partial(_training, paths, records, stage)) for stage in TRAINING_STAGES),
        ("evaluation", lambda: _evaluation(paths)),
        ("scaling", lambda: _scaling(paths)),
        ("", lambda: _times(records)),
        ("", lambda: _settings(paths)),
    ]
    parts, errors = [], []
    for step, make in makers:
        if step in left_out:
            continue
        try:
            part = make()
        except Exception as error:
            errors.append(error)
            reason = f"its part of this page could not be drawn: {explain(error).line()}"
            failures = [*failures, StepFailure(step or "report", "failed", reason)]
        else:
            parts += [part] if part is not None else []
    if failures:
        parts.insert(0, _part("failures", "Failed steps", failures=failures))
    return parts, errors


def _part(anchor: str, title: str, kind: str | None = None, **shown: Any) -> Part:
    return {"anchor": anchor, "title": title, "kind": kind or anchor.replace("-", "_"), **shown}


def _cards(records: Records, documents: Path) -> list[dict[str, str]]:
    cards = []
    with suppress(UserError, LookupError, TypeError):  # the funnel names what is wrong
        kept = read_counts(documents)[-1]["documents_out"]
        cards.append({"value": f"{kept:,}", "label": "documents kept"})
    for step, key, form, label in CARDS:
        value = records.get(step, {}).get("summary", {}).get(key)
        if value is not None:
            cards.append({"value": form.format(value), "label": label})
    return cards


CARDS = (
    ("tokenizer", "bytes_per_token", "{:.2f}", "bytes per token"),
    ("shards", "train_tokens", "{:,}", "training tokens on disk"),
    ("pretrain", "parameters", "{:,}", "parameters"),
    ("pretrain", "tokens_per_second", "{:,.0f}", "tokens per second in pretraining"),
    ("evaluation", "best", "{:.3f}", "bits per byte, best checkpoint"),
)
# stage -> (title, explanation, validation key, validation label)
TRAINING_STAGES = {
    "pretrain": (
        "Pretraining",
        "The model learns to predict the next token of the documents. Validation predicts each "
        "token of the held-out documents once; bits per byte does not depend on the tokenizer.",
        "validation_bits_per_byte",
        "validation bits per byte",
    ),
    "sft": (
        "Supervised fine-tuning",
        "The model learns to answer: the loss counts only the assistant's tokens.",
        "heldout_loss",
        "held-out answer loss",
    ),
    "dpo": (
        "Direct preference optimization",
        "Relative to the frozen SFT model, the right answer is made more likely than the answer "
        "about another function, from the same module if it has one of similar length. A pair is "
        "ranked correctly if the right answer has the higher mean log-probability per token.",
        "heldout_ranking",
        "held-out pairs ranked correctly",
    ),
}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _samples(paths: RunPaths) -> Part | None:
    samples = _read(paths.samples)
    return _part("samples", "Samples", **samples) if samples else None


def _before_and_after(paths: RunPaths, stages: Sequence[str]) -> Part | None:
    rows = []
    for stage in stages:
        title, _, key, label = TRAINING_STAGES[stage]
        values = [row for row in read_metrics(paths.metrics, stage) if row.get(key) is not None]
        if len(values) < 2:
            continue
        before, after = values[0][key], values[-1][key]
        higher_is_better = key == "heldout_ranking"
        form = "{:.1%}" if higher_is_better else "{:.4f}"
        shown = {"before": form.format(before), "after": form.format(after)}
        mark = "better" if (after > before) == higher_is_better else "worse"
        shown["mark"] = mark if shown["before"] != shown["after"] else ""
        rows.append({"stage": title, "label": label, **shown, "steps": values[-1]["step"]})
    return (
        _part("before-after", "Before and after", "before_and_after", rows=rows) if rows else None
    )


def _tokenizer(records: Records) -> Part | None:
    summary = records.get("tokenizer", {}).get("summary")
    if not summary:
        return None
    if "characters" in summary:
        return _part("characters", "Tokenizer", characters=summary["characters"])
    shown = {key: summary[key] for key in ("vocab_size", "merges", "bytes_per_token")}
    return _part(
        "tokenizer",
        "Tokenizer",
        **shown,
        first_merges=[f"{left} + {right}" for left, right in summary["first_merges"]],
        longest_tokens=summary["longest_tokens"],
        plot=report_plots.compression_curve([tuple(point) for point in summary["compression"]]),
    )


def _training(paths: RunPaths, records: Records, stage: str) -> Part | None:
    rows = read_metrics(paths.metrics, stage)
    if len(rows) < 2:
        return None
    title, explanation, key, label = TRAINING_STAGES[stage]
    summary = records.get(stage, {}).get("summary", {})
    facts = [
        f"{summary[name]:,.0f} {label}" if isinstance(summary[name], float | int) else summary[name]
        for name, label in (
            ("steps", "steps"),
            ("tokens", "tokens"),
            ("tokens_per_second", "tokens/s"),
        )
        if name in summary
    ]
    if "precision" in summary:
        facts.append(f"{summary['precision']} arithmetic")
    plots = report_plots.training_curves(rows, stage, key, label)
    return _part(stage, title, "training", explanation=explanation, facts=facts, plots=plots)


def _evaluation(paths: RunPaths) -> Part | None:
    rows = _read(paths.evaluation)
    if not rows:
        return None
    keys = ("stage", "step", "bits_per_byte", "perplexity")
    return _part(
        "evaluation", "Every checkpoint", rows=[{key: row[key] for key in keys} for row in rows]
    )


def _scaling(paths: RunPaths) -> Part | None:
    fit = _read(paths.scaling / "fit.json")
    if not fit:
        return None
    plot = report_plots.scaling_curves(fit["runs"], fit["curves"], fit["main_run"])
    keys = ("runs", "surface", "main_run", "doubts", "curves")
    return _part("scaling", "Scaling", plot=plot, **{key: fit[key] for key in keys})


def _times(records: Records) -> Part | None:
    if not records:
        return None
    longest = max(record["seconds"] for record in records.values()) or 1
    rows = [
        {
            "step": name,
            "percent": 100 * record["seconds"] / longest,
            "time": clock(record["seconds"]),
            "line": record.get("line", ""),  # runs from before November 2026 have none
        }
        for name, record in records.items()
    ]
    return _part("times", "Steps and times", rows=rows)


def _settings(paths: RunPaths) -> Part | None:
    settings = _read(paths.settings)
    if settings is None:
        return None
    return _part("settings", "Settings", text=json.dumps(settings, indent=2))
