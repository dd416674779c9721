"""report.html: one self-contained page with every step's figures, plots and samples.

The page needs no network and no script: styles and plots are inside it. What this leaves out:
figures of its own. All that it shows was written by a step before it; a part whose step was not run
is left out of the page.
"""

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths, atomic_file
from lm_core.documents import read_counts
from lm_core.metric_log import read_metrics
from lm_core.progress import clock
from lm_course import report_plots

Section = tuple[str, str, str]  # anchor, title, body


def write_report(paths: RunPaths, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write the page.

    Args:
        paths: the run.
        records: what `recipe_runner` recorded of each step that has been run, by step name.

    Returns:
        {"sections": number of sections, "bytes": size of the page}.
    """
    sections = [section for section in _sections(paths, records) if section is not None]
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in sections)
    body = "".join(f'<h2 id="{a}">{escape(title)}</h2>{content}' for a, title, content in sections)
    name = escape(paths.root.name)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: from raw pages to a model that answers</title>"
        f"<style>{files('lm_course').joinpath('report.css').read_text()}</style></head><body><main>"
        "<h1>From raw pages to a model that answers</h1>"
        f'<p class="soft">{_subtitle(name, records)}</p>'
        f"{_cards(paths, records)}<nav>{links}</nav>{body}"
        "<footer>Every figure on this page was written by a step of this run; "
        "settings.json beside it holds the settings.</footer></main></body></html>"
    )
    with atomic_file(paths.report, "w") as file:
        file.write(page)
    return {"sections": len(sections), "bytes": len(page.encode())}


def escape(value: object) -> str:
    return html.escape(str(value))


def _sections(paths: RunPaths, records: dict[str, dict[str, Any]]) -> Iterable[Section | None]:
    yield _samples(paths)
    yield _before_and_after(paths)
    yield _funnel(paths)
    yield _tokenizer(records)
    for stage in TRAINING_STAGES:
        yield _training(paths, records, stage)
    yield _evaluation(paths)
    yield _scaling(paths)
    yield _times(records)
    yield _settings(paths)


def _subtitle(name: str, records: dict[str, dict[str, Any]]) -> str:
    seconds = sum(record["seconds"] for record in records.values())
    python = next(iter(records.values()))["python"] if records else "?"
    return f"Run <b>{name}</b> · {len(records)} steps in {clock(seconds)} · Python {escape(python)}"


def _cards(paths: RunPaths, records: dict[str, dict[str, Any]]) -> str:
    cards = []
    for step, key, form, label in CARDS:
        value = records.get(step, {}).get("summary", {}).get(key)
        if value is not None:
            cards.append((form.format(value), label))
    rows = _read(paths.evaluation) or []
    if rows:
        best = min(row["bits_per_byte"] for row in rows)
        cards.append((f"{best:.3f}", "bits per byte, best checkpoint"))
    body = "".join(f'<div class="card"><b>{v}</b><span>{escape(t)}</span></div>' for v, t in cards)
    return f'<div class="cards">{body}</div>'


CARDS = (
    ("documents", "documents", "{:,}", "documents kept"),
    ("tokenizer", "bytes_per_token", "{:.2f}", "bytes per token"),
    ("shards", "train_tokens", "{:,}", "training tokens on disk"),
    ("pretrain", "parameters", "{:,}", "parameters"),
    ("pretrain", "tokens_per_second", "{:,.0f}", "tokens per second in pretraining"),
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


def _before_and_after(paths: RunPaths) -> Section | None:
    rows = []
    for stage, (title, _, key, label) in TRAINING_STAGES.items():
        values = [row for row in read_metrics(paths.metrics, stage) if row.get(key) is not None]
        if len(values) < 2:
            continue
        before, after = values[0][key], values[-1][key]
        higher_is_better = key == "heldout_ranking"
        form = "{:.1%}" if higher_is_better else "{:.4f}"
        better = (after > before) == higher_is_better and after != before
        mark = "better" if better else "worse"
        cell = f'<span class="{mark}">{form.format(after)}</span>'
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
    return "funnel", "From pages to documents", text + body


def _tokenizer(records: dict[str, dict[str, Any]]) -> Section | None:
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


def _training(paths: RunPaths, records: dict[str, dict[str, Any]], stage: str) -> Section | None:
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
            f"{row['perplexity']:,.1f}",
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
    plot = report_plots.scaling_curves(fit["runs"], fit["curves"], fit.get("main_run"))
    p = fit["surface"]
    text = (
        f"<p>{len(fit['runs'])} small models, trained for real, and the surface "
        f"<code>L(N, D) = E + A/N^a + B/D^b</code> through them: E = {p['E']:.3f}, A = "
        f"{p['A']:.3g}, "
        f"a = {p['alpha']:.3f}, B = {p['B']:.3g}, b = {p['beta']:.3f}.</p>"
    )
    main = fit.get("main_run")
    if main:
        error = main["predicted"] - main["loss"]
        text += (
            f"<p>For the main run ({main['parameters']:,} parameters, {main['tokens']:,} "
            "tokens) it predicts "
            f"{main['predicted']:.3f} nats per token; measured: {main['loss']:.3f} "
            f"({error:+.3f}). So few and so small "
            "runs leave the exponents uncertain: this is the method, not yet an instrument.</p>"
        )
    for doubt in fit.get("doubts", []):
        text += f"<p>Not to be trusted: {escape(doubt)}.</p>"
    caption = "Points: measured. Lines: the fitted surface."
    return "scaling", "Scaling", text + figure(plot, caption, half=True)


def _times(records: dict[str, dict[str, Any]]) -> Section | None:
    if not records:
        return None
    longest = max(record["seconds"] for record in records.values()) or 1
    rows = [
        (
            escape(name),
            f'<div class="bar" style="width:{100 * record["seconds"] / longest:.1f}%"></div>',
            clock(record["seconds"]),
        )
        for name, record in records.items()
    ]
    body = table(("step", "", "time"), rows, "  n").replace("<td><div", '<td class="barcell"><div')
    return "times", "Where the time went", body


def _settings(paths: RunPaths) -> Section | None:
    settings = _read(paths.settings)
    if settings is None:
        return None
    text = escape(json.dumps(settings, indent=2))
    body = f"<details><summary>settings.json</summary><pre>{text}</pre></details>"
    return "settings", "Settings", body
