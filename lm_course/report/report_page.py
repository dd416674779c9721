"""report.html: one self-contained page with every step's figures, plots and samples.

The page needs no network and no script: styles and plots are inside it. What this leaves out:
figures of its own. All that it shows was written by a step before it; a part whose step failed or
was not run is left out of the page, and the page says so at its top.
"""

import html
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths, atomic_file
from lm_core.formats.documents import read_counts
from lm_core.formats.metric_log import read_metrics
from lm_core.progress import clock
from lm_course.error_lines import explain
from lm_course.pipeline.step_failures import StepFailure
from lm_course.report import report_plots

Section = tuple[str, str, str]  # anchor, title, body
Records = dict[str, dict[str, Any]]


def write_report(
    paths: RunPaths, records: Records, failures: Sequence[StepFailure] = ()
) -> dict[str, Any]:
    """Write the page. A part of it that cannot be drawn is left out; its error is raised when the
    page has been written.

    Args:
        paths: the run.
        records: what `recipe_runner` recorded of each step that ended well, by step name.
        failures: the steps that failed or were not run, in the order of the steps.

    Returns:
        {"sections": number of sections, "bytes": size of the page}.
    """
    sections, errors = _sections(paths, records, failures)
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in sections)
    body = "".join(f'<h2 id="{a}">{escape(title)}</h2>{content}' for a, title, content in sections)
    name = escape(paths.root.name)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: from raw pages to a model that answers</title>"
        f"<style>{files('lm_course.report').joinpath('report.css').read_text()}</style>"
        "</head><body><main>"
        "<h1>From raw pages to a model that answers</h1>"
        f'<p class="soft">{_subtitle(name, records)}</p>'
        f"{_cards(records)}<nav>{links}</nav>{body}"
        "<footer>Every figure on this page was written by a step of this run; "
        "settings.json beside it holds the settings.</footer></main></body></html>"
    )
    with atomic_file(paths.report, "w") as file:
        file.write(page)
    if errors:
        raise errors[0]
    return {"sections": len(sections), "bytes": len(page.encode())}


def escape(value: object) -> str:
    return html.escape(str(value))


def _sections(
    paths: RunPaths, records: Records, failures: Sequence[StepFailure]
) -> tuple[list[Section], list[Exception]]:
    """The parts of the page whose steps have a result, and the errors of those that could not be
    drawn.
    """
    left_out = {failure.step for failure in failures}
    stages = [stage for stage in TRAINING_STAGES if stage not in left_out]
    parts: list[tuple[str, Callable[[], Section | None]]] = [
        ("samples", lambda: _samples(paths)),
        ("", lambda: _before_and_after(paths, stages)),
        ("documents", lambda: _funnel(paths)),
        ("tokenizer", lambda: _tokenizer(records)),
        *((stage, partial(_training, paths, records, stage)) for stage in TRAINING_STAGES),
        ("evaluation", lambda: _evaluation(paths)),
        ("scaling", lambda: _scaling(paths)),
        ("", lambda: _times(records)),
        ("", lambda: _settings(paths)),
    ]
    sections, errors = [], []
    for step, part in parts:
        if step in left_out:
            continue
        try:
            section = part()
        except Exception as error:
            errors.append(error)
            reason = f"its part of this page could not be drawn: {explain(error).line()}"
            failures = [*failures, StepFailure(step or "report", "failed", reason)]
        else:
            sections += [section] if section is not None else []
    return ([_failures(failures)] if failures else []) + sections, errors


def _failures(failures: Sequence[StepFailure]) -> Section:
    rows = [
        (
            escape(failure.step),
            f'<span class="outcome {"worse" if failure.outcome == "failed" else "soft"}">'
            f"{escape(failure.outcome)}</span>",
            f'<span class="reason">{escape(failure.reason)}</span>',
        )
        for failure in failures
    ]
    text = (
        "<p>These steps have no result in this run. The parts of this page that would show them "
        "are left out; all others are whole.</p>"
    )
    return "failures", "What failed", text + table(("step", "", "why"), rows)


def _subtitle(name: str, records: Records) -> str:
    seconds = sum(record["seconds"] for record in records.values())
    python = next(iter(records.values()))["python"] if records else "?"
    return f"Run <b>{name}</b> · {len(records)} steps in {clock(seconds)} · Python {escape(python)}"


def _cards(records: Records) -> str:
    cards = []
    for step, key, form, label in CARDS:
        value = records.get(step, {}).get("summary", {}).get(key)
        if value is not None:
            cards.append((form.format(value), label))
    body = "".join(f'<div class="card"><b>{v}</b><span>{escape(t)}</span></div>' for v, t in cards)
    return f'<div class="cards">{body}</div>'


CARDS = (
    ("documents", "documents", "{:,}", "documents kept"),
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
        "The model learns to predict the next token of the documents. Validation is the "
        "held-out documents, each token "
        "predicted once; bits per byte does not depend on the tokenizer.",
        "validation_bits_per_byte",
        "validation bits per byte",
    ),
    "sft": (
        "Supervised fine-tuning",
        "The model learns to answer: the loss counts the assistant's tokens alone.",
        "heldout_loss",
        "held-out answer loss",
    ),
    "dpo": (
        "Direct preference optimisation",
        "Against the frozen SFT model, the right answer is made likelier than the answer of "
        "another function, of the same module where it has one of like length. Ranked "
        "rightly: the right answer has the higher mean log-probability per token.",
        "heldout_ranking",
        "held-out pairs ranked rightly",
    ),
}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: str = "") -> str:
    """An HTML table; `numbers` has an "n" for each column that is aligned to the right. Cells are
    HTML.
    """
    kinds = [' class="n"' if kind == "n" else "" for kind in numbers.ljust(len(header))]
    head = "".join(f"<th{kind}>{cell}</th>" for kind, cell in zip(kinds, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{c}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def figure(svg: str, caption: str, half: bool = False) -> str:
    kind = ' class="half"' if half else ""
    plots = f'<div class="plots">{svg}</div>'
    return f"<figure{kind}>{plots}<figcaption>{caption}</figcaption></figure>"


def _samples(paths: RunPaths) -> Section | None:
    samples = _read(paths.samples)
    if not samples:
        return None
    parts = ["<p>Nothing here was picked by hand: fixed prompts, fixed seeds.</p>"]
    for row in samples["chat"]:
        replies = "".join(
            f'<div class="bubble reply"><small>{escape(reply["label"])}</small>'
            f"{escape(reply['text'])}</div>"
            for reply in row["replies"]
        )
        question = f'<div class="bubble user">{escape(row["question"])}</div>'
        parts.append(f'<div class="chat">{question}{replies}</div>')
    parts.append("<h3>The pretrained model goes on from a few words</h3>")
    for row in samples["completions"]:
        parts.append(f"<pre><b>{escape(row['prompt'])}</b>{escape(row['text'])}</pre>")
    return "samples", "What it says", "".join(parts)


def _before_and_after(paths: RunPaths, stages: Sequence[str]) -> Section | None:
    rows = []
    for stage in stages:
        title, _, key, label = TRAINING_STAGES[stage]
        values = [row for row in read_metrics(paths.metrics, stage) if row.get(key) is not None]
        if len(values) < 2:
            continue
        before, after = values[0][key], values[-1][key]
        higher_is_better = key == "heldout_ranking"
        form = "{:.1%}" if higher_is_better else "{:.4f}"
        mark = "better" if (after > before) == higher_is_better else "worse"
        cell = form.format(after)
        if cell != form.format(before):
            cell = f'<span class="{mark}">{cell}</span>'
        steps = f"{values[-1]['step']:,}"
        rows.append((title, escape(label), form.format(before), cell, steps))
    if not rows:
        return None
    header = ("stage", "measured on held-out data", "before", "after", "steps")
    return "before-after", "Before and after", table(header, rows, "  nnn")


def _funnel(paths: RunPaths) -> Section | None:
    if not paths.documents.exists():
        return None
    counts = read_counts(paths.documents)
    widest = max(row["documents_in"] for row in counts) or 1
    rows = []
    for row in counts:
        share = 100 * row["documents_out"] / widest
        reasons = sorted(row["dropped"].items(), key=lambda item: -item[1])
        dropped = ", ".join(f"{escape(reason)} {number:,}" for reason, number in reasons)
        bar = f'<div class="bar" style="width:{share:.1f}%"></div>'
        kept = f"{row['documents_out']:,}", f"{row['bytes_out'] / 1e6:.2f} MB"
        rows.append((escape(row["step"]), bar, *kept, f'<span class="soft">{dropped}</span>'))
    header = ("step", "documents that go on", "documents", "text", "why others were dropped")
    body = table(header, rows, "  nn ").replace("<td><div", '<td class="barcell"><div')
    text = "<p>Every page goes through the same door as a web crawl: a WARC file.</p>"
    if named := [escape(name) for row in counts for name in row.get("named", [])]:
        body += f"<p>Pages that could not be read, among them: {'; '.join(named[:5])}.</p>"
    return "funnel", "From pages to documents", text + body


def _tokenizer(records: Records) -> Section | None:
    summary = records.get("tokenizer", {}).get("summary")
    if not summary:
        return None
    first = "".join(_token(f"{left} + {right}") for left, right in summary["first_merges"])
    longest = "".join(_token(text) for text in summary["longest_tokens"])
    plot = report_plots.compression_curve([tuple(point) for point in summary["compression"]])
    text = (
        f"<p>Byte-level BPE: {summary['vocab_size']:,} entries, of them 256 bytes and "
        f"{summary['merges']:,} merges; {summary['bytes_per_token']:.2f} bytes per token on "
        "validation text. "
        "A space is shown as ␣, a line end as ⏎.</p>"
    )
    lists = (
        f'<h3>The first merges, in order</h3><div class="tokens">{first}</div>'
        f'<h3>The longest tokens</h3><div class="tokens">{longest}</div>'
    )
    caption = "Each merge makes the text shorter; the first few hundred do most of it."
    return "tokenizer", "Tokenizer", text + lists + figure(plot, caption, half=True)


def _token(text: str) -> str:
    return f'<span class="token">{escape(text)}</span>'


def _training(paths: RunPaths, records: Records, stage: str) -> Section | None:
    rows = read_metrics(paths.metrics, stage)
    if len(rows) < 2:
        return None
    title, explanation, key, label = TRAINING_STAGES[stage]
    plot = report_plots.training_curves(rows, stage, key, label)
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
    caption = escape(" · ".join(facts))
    return stage, title, f"<p>{explanation}</p>" + figure(plot, caption)


def _evaluation(paths: RunPaths) -> Section | None:
    rows = _read(paths.evaluation)
    if not rows:
        return None
    cells = [
        (
            escape(row["stage"]),
            f"{row['step']:,}",
            f"{row['bits_per_byte']:.4f}",
            "too large" if row["perplexity"] is None else f"{row['perplexity']:,.1f}",
        )
        for row in rows
    ]
    text = (
        "<p>The validation documents under every checkpoint that was kept. Fine-tuning on "
        "answers moves the model away "
        "from the documents, so these figures rise again after pretraining.</p>"
    )
    header = ("stage", "step", "bits per byte", "perplexity per token")
    return "evaluation", "Every checkpoint", text + table(header, cells, " nnn")


def _scaling(paths: RunPaths) -> Section | None:
    fit = _read(paths.scaling / "fit.json")
    if not fit:
        return None
    plot = report_plots.scaling_curves(fit["runs"], fit["curves"], fit["main_run"])
    text = f"<p>{len(fit['runs'])} small models, trained for real"
    if fit["surface"] is not None:
        text += (
            ", and the surface <code>L(N, D) = E + A/N^a + B/D^b</code> that is nearest to them: "
            "E = {E:.3f}, A = {A:.3g}, a = {alpha:.3f}, B = {B:.3g}, b = {beta:.3f}"
        ).format(**fit["surface"])
    text += (
        ". N counts the parameters that are multiplied, not an embedding that is only looked up."
        f"</p><p>{_main_run(fit['main_run'])}</p>"
    )
    if fit["doubts"]:
        reasons = "".join(f"<li>{escape(doubt)}</li>" for doubt in fit["doubts"])
        text += (
            "<p><b>These runs do not settle a surface</b>, so a prediction from it is not to be "
            f"trusted:</p><ul>{reasons}</ul>"
        )
    lines = " Lines: the fitted surface." if fit["curves"] else ""
    return "scaling", "Scaling", text + figure(plot, f"Points: measured.{lines}", half=True)


def _main_run(main: dict[str, Any]) -> str:
    """What was predicted of the main run and what it reached."""
    measured = (
        f"The main run (N = {main['parameters']:,}, {main['tokens']:,} tokens) reached "
        f"{main['loss']:.3f} nats per token"
    )
    if main["predicted"] is None:
        return f"{measured}; nothing predicts that."
    low, high = main["interval"]
    off = main["predicted"] - main["loss"]
    return (
        f"{measured}; the surface predicts {main['predicted']:.3f} "
        f"(bootstraps: {low:.3f} to {high:.3f}), {abs(off):.3f} "
        f"{'below' if off < 0 else 'above'} what was reached."
    )


def _times(records: Records) -> Section | None:
    if not records:
        return None
    longest = max(record["seconds"] for record in records.values()) or 1
    rows = [
        (
            escape(name),
            f'<div class="bar" style="width:{100 * record["seconds"] / longest:.1f}%"></div>',
            clock(record["seconds"]),
            f'<span class="soft">{escape(record.get("line", ""))}</span>',
        )
        for name, record in records.items()
    ]
    body = table(("step", "", "time", "result"), rows, "  n ").replace(
        "<td><div", '<td class="barcell"><div'
    )
    return "times", "The steps, and where the time went", body


def _settings(paths: RunPaths) -> Section | None:
    settings = _read(paths.settings)
    if settings is None:
        return None
    text = escape(json.dumps(settings, indent=2))
    body = f"<details><summary>settings.json</summary><pre>{text}</pre></details>"
    return "settings", "Settings", body
