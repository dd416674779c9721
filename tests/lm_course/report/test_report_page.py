"""The page shows the records' figures, each in its place, and is self-contained."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lm_core.artifact_paths import RunPaths, write_json
from lm_core.formats.documents import read_counts
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_course.model_steps.report import report
from lm_course.pipeline.step import StepContext
from lm_course.pipeline.step_failures import StepFailure
from lm_course.report.report_page import write_report

SECTIONS = [
    "samples", "before-after", "funnel", "tokenizer", "pretrain", "sft", "dpo", "evaluation",
    "scaling", "times", "settings",
]  # fmt: skip
SAMPLES = {
    "completions": [{"prompt": "This module", "text": " opens <files> & closes them"}],
    "chat": [
        {
            "question": "What does `a < b` do?",
            "replies": [
                {"label": "after fine-tuning", "text": "It compares <first>."},
                {"label": "after preference optimization", "text": "It compares <second>."},
            ],
        }
    ],
}
COUNTS = [
    {"step": "extract text", "documents_in": 4000, "documents_out": 3000, "bytes_in": 9_000_000,
     "bytes_out": 5_250_000, "dropped": {"no text found": 400, "not a text format": 600}},
    {"step": "near duplicates", "documents_in": 3000, "documents_out": 1000,
     "bytes_in": 5_250_000, "bytes_out": 1_500_000, "dropped": {"similar text": 2000}},
]  # fmt: skip
METRICS = {  # stage -> (key, at step 0, half-way, at the end)
    "pretrain": ("validation_bits_per_byte", 4.5, 9.0, 2.25),
    "sft": ("heldout_loss", 6.5, 9.0, 4.75),
    "dpo": ("heldout_ranking", 0.5, 0.125, 0.625),
}
EVALUATION = [
    {"stage": "pretrain", "step": 0, "bits_per_byte": 4.5, "perplexity": 1234.5},
    {"stage": "pretrain", "step": 600, "bits_per_byte": 512.0, "perplexity": None},
    {"stage": "pretrain", "step": 1200, "bits_per_byte": 2.25, "perplexity": 98.76},
]
RUNS = [{"parameters": 1000, "tokens": t, "loss": loss} for t, loss in ((100, 5.0), (200, 4.0))]
FIT = {
    "surface": {"E": 1.125, "A": 20.5, "B": 30.5, "alpha": 0.375, "beta": 0.625},
    "runs": RUNS,
    "curves": [{"parameters": 1000, "tokens": [100, 200], "loss": [5.0, 4.0]}],
    "main_run": {
        "parameters": 5000,
        "tokens": 70_000,
        "loss": 3.25,
        "predicted": 3.75,
        "interval": [3.5, 4.0],
    },
    "doubts": ["E < 0 & the rest"],
}
SUMMARIES = {
    "documents": {"documents": 1000},
    "tokenizer": {
        "vocab_size": 4096, "merges": 3831, "bytes_per_token": 3.14159,
        "compression": [[0, 1.0], [3831, 3.14159]],
        "first_merges": [["␣", "t"], ["h", "<e"]],
        "longest_tokens": ["␣documentation", "="],
    },
    "shards": {"train_tokens": 1_234_567},
    "pretrain": {"parameters": 5000, "steps": 1200, "tokens": 70_000, "tokens_per_second": 4321,
                 "precision": "bfloat16"},
    "evaluation": {"checkpoints": 2, "best": 2.25},
}  # fmt: skip


def make_run(folder: Path) -> RunPaths:
    """A run of hand-made artifacts."""
    paths = RunPaths(folder / "a<b>")
    write_json(paths.samples, SAMPLES)
    write_json(paths.documents / "counts.json", COUNTS)
    write_json(paths.evaluation, EVALUATION)
    write_json(paths.scaling / "fit.json", FIT)
    write_json(paths.settings, {"tokenizer": {"pattern": "<gpt2>"}})
    for stage, (key, *values) in METRICS.items():
        log = MetricLog(paths.metrics, stage)
        for step, value in zip((0, 600, 1200), values, strict=True):
            trained = {"loss": 5.0, "learning_rate": 1e-3} if step else {}
            log.append({"step": step, **trained, key: value})
    return paths


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A run that a test may change."""
    return make_run(tmp_path)


def page_of(paths: RunPaths, failures: Sequence[StepFailure] = ()) -> str:
    records = {
        step: {"summary": summary, "seconds": 65.0 * number, "python": "3.12.1"}
        for number, (step, summary) in enumerate(SUMMARIES.items(), start=1)
    }
    summary = write_report(paths, records, failures)
    assert summary["bytes"] == paths.report.stat().st_size
    page = paths.report.read_text(encoding="utf-8")
    assert summary["sections"] == page.count("<h2 ")
    return page


def test_the_documents_are_those_of_the_last_filter(run: RunPaths) -> None:
    """A filter writes a folder of its own, with a row of counts more."""
    folder = run.root / "toxicity.documents"
    counts = [*read_counts(run.documents), dict(read_counts(run.documents)[-1], step="toxicity")]
    counts[-1] |= {"documents_in": counts[-2]["documents_out"], "documents_out": 1, "dropped": {}}
    folder.mkdir()
    (folder / "counts.json").write_text(json.dumps(counts))
    record = {"summary": {"documents": counts[-2]["documents_out"]}, "seconds": 1, "python": "3"}
    context = StepContext(
        "report",
        run.root,
        sections={},
        inputs={"documents": (folder,)},
        outputs={"report": (run.report,)},
        records={"documents": record},
    )
    report(context)
    page = run.report.read_text(encoding="utf-8")
    assert "toxicity" in plain(section(page, "funnel"))
    assert re.search(r"\b1\s*documents kept", plain(page))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the run as it was made; drawing its eleven plots takes seconds."""
    return page_of(make_run(tmp_path_factory.mktemp("report")))


def plain(markup: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", markup))


def section(page: str, anchor: str) -> str:
    """Return the markup from a section's heading to the next."""
    return re.search(f'<h2 id="{anchor}">(.*?)(?=<h2 |<footer>)', page, re.DOTALL)[1]


def rows(markup: str) -> list[list[str]]:
    """Return the text of a table's cells, without its header."""
    found = re.findall("<tr>(.*?)</tr>", markup, re.DOTALL)[1:]
    return [[plain(cell) for cell in re.findall("<td[^>]*>(.*?)</td>", row)] for row in found]


def test_every_section_is_there_in_order_and_linked(page: str) -> None:
    assert re.findall(r'<h2 id="([^"]*)"', page) == SECTIONS
    navigation = re.search("<nav>(.*?)</nav>", page)[1]
    assert re.findall(r'href="#([^"]*)"', navigation) == SECTIONS
    assert {anchor: section(page, anchor).count("<svg") for anchor in SECTIONS} == {
        **dict.fromkeys(SECTIONS, 0),
        **dict.fromkeys(("tokenizer", "scaling"), 1),
        **dict.fromkeys(("pretrain", "sft", "dpo"), 3),
    }


def test_the_text_of_every_plot_is_legible(page: str) -> None:
    """At least 11 pixels where plots are narrowest: on a phone, or with three in a row."""
    (narrowest,) = map(int, re.findall(r"\.plots \{[^}]*minmax\(min\((\d+)px", page))
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 11
    assert page.count('<div class="plots"><svg') == 5
    for svg in plots:
        width = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", svg)]
        assert len(sizes) >= 5
        assert min(sizes) * narrowest / width >= 11
    assert "figure svg text { fill: var(--soft) !important" in page, "light and dark"


def test_ids_of_plots_differ(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 100


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    for forbidden in ("<script", "<link", "@import", "src=", "url(http", "url(//"):
        assert forbidden not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > len(SECTIONS)
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_samples_are_under_their_prompts_and_escaped(page: str) -> None:
    part = section(page, "samples")
    bubbles = re.findall('<div class="bubble (user|reply)">(.*?)</div>', part)
    assert [(kind, plain(text)) for kind, text in bubbles] == [
        ("user", "What does `a < b` do?"),
        ("reply", "after fine-tuningIt compares <first>."),
        ("reply", "after preference optimizationIt compares <second>."),
    ]
    assert "<pre><b>This module</b> opens &lt;files&gt; &amp; closes them</pre>" in part


def test_before_is_the_first_figure_and_after_the_last(page: str) -> None:
    part = section(page, "before-after")
    assert re.findall(r"<th[^>]*>(\w+)</th>", part) == ["stage", "before", "after", "steps"]
    pretraining, finetuning, preference = "Pretraining", "Supervised fine-tuning", (
        "Direct preference optimization"
    )  # fmt: skip
    assert rows(part) == [
        [pretraining, "validation bits per byte", "4.5000", "2.2500", "1,200"],
        [finetuning, "held-out answer loss", "6.5000", "4.7500", "1,200"],
        [preference, "held-out pairs ranked correctly", "50.0%", "62.5%", "1,200"],
    ]
    assert re.findall('<span class="(better|worse)">', part) == ["better"] * 3


def test_what_became_worse_is_marked_as_worse(run: RunPaths) -> None:
    MetricLog(run.metrics, "sft").append({"step": 1300, "heldout_loss": 7.0})
    MetricLog(run.metrics, "dpo").append({"step": 1300, "heldout_ranking": 0.25})
    part = section(page_of(run), "before-after")
    assert re.findall('<span class="(better|worse)">', part) == ["better", "worse", "worse"]


def test_what_stayed_as_it_was_is_neither_better_nor_worse(run: RunPaths) -> None:
    first = next(row for row in read_metrics(run.metrics, "dpo") if "heldout_ranking" in row)
    MetricLog(run.metrics, "dpo").append(first | {"step": 1300})
    part = section(page_of(run), "before-after")
    assert re.findall('<span class="(better|worse)">', part) == ["better", "better"]


def test_the_funnel_has_a_row_a_step_with_its_reasons_most_frequent_first(page: str) -> None:
    part = section(page, "funnel")
    reasons = "not a text format 600, no text found 400"
    assert rows(part) == [
        ["extract text", "", "3,000", "5.25 MB", reasons],
        ["near duplicates", "", "1,000", "1.50 MB", "similar text 2,000"],
    ]
    assert re.findall(r'style="width:([\d.]+)%"', part) == ["75.0", "25.0"]


def test_merges_and_tokens_are_listed(page: str) -> None:
    part = section(page, "tokenizer")
    first, longest = re.findall('<div class="tokens">(.*?)</div>', part)
    token = re.compile('<span class="token">(.*?)</span>')
    assert [plain(text) for text in token.findall(first)] == ["␣ + t", "h + <e"]
    assert [plain(text) for text in token.findall(longest)] == ["␣documentation", "="]
    assert "4,096 entries" in part
    assert "3,831 merges; 3.14 bytes per token" in part


def test_figures_of_evaluation_scaling_and_settings(page: str) -> None:
    assert rows(section(page, "evaluation")) == [
        ["pretrain", "0", "4.5000", "1,234.5"],
        ["pretrain", "600", "512.0000", "too large"],
        ["pretrain", "1,200", "2.2500", "98.8"],
    ]
    scaling = plain(section(page, "scaling"))
    assert "E = 1.125, A = 20.5, a = 0.375, B = 30.5, b = 0.625" in scaling
    assert (
        "The main run (N = 5,000, 70,000 tokens) reached 3.250 nats per token; the surface "
        "predicts 3.750 (bootstraps: 3.500 to 4.000), 0.500 above the measured loss."
    ) in scaling
    assert "These runs do not determine a surface" in scaling
    assert scaling.count("E < 0 & the rest") == 1
    settings = plain(re.search("<pre>(.*?)</pre>", section(page, "settings"), re.DOTALL)[1])
    assert json.loads(settings) == {"tokenizer": {"pattern": "<gpt2>"}}
    facts = "1,200 steps · 70,000 tokens · 4,321 tokens/s · bfloat16 arithmetic"
    assert f"<figcaption>{facts}</figcaption>" in section(page, "pretrain")


def test_small_runs_without_a_surface_are_still_plotted(run: RunPaths) -> None:
    main = FIT["main_run"] | {"predicted": None, "interval": None}
    nothing = {"surface": None, "curves": [], "main_run": main, "doubts": ["got 2 runs"]}
    write_json(run.scaling / "fit.json", FIT | nothing)
    part = section(page_of(run), "scaling")
    assert "<svg" in part
    assert "0.00 M" in part, "the legend of the runs"
    text = plain(part)
    assert "got 2 runs" in text
    assert "there is no prediction of it" in text
    assert "E =" not in text and "by Muon" not in text
    main = FIT["main_run"] | {"optimizer": "muon"}
    write_json(run.scaling / "fit.json", FIT | {"main_run": main})
    assert "trained by Muon and the small runs by AdamW" in plain(section(page_of(run), "scaling"))
    write_json(run.scaling / "fit.json", FIT | {"doubts": []})
    assert "determine" not in plain(section(page_of(run), "scaling"))


def test_the_head_of_the_page_sums_up_the_run(page: str) -> None:
    assert "Run <b>a&lt;b&gt;</b> · 5 steps in 16:15 · Python 3.12.1" in page
    cards = re.findall('<div class="card"><b>(.*?)</b><span>(.*?)</span></div>', page)
    assert cards == [
        ("1,000", "documents kept"),
        ("3.14", "bytes per token"),
        ("1,234,567", "training tokens on disk"),
        ("5,000", "parameters"),
        ("4,321", "tokens per second in pretraining"),
        ("2.250", "bits per byte, best checkpoint"),
    ]
    assert [(row[0], row[2]) for row in rows(section(page, "times"))] == [
        ("documents", "1:05"), ("tokenizer", "2:10"), ("shards", "3:15"), ("pretrain", "4:20"),
        ("evaluation", "5:25"),
    ]  # fmt: skip


FAILURES = [
    StepFailure("dpo", "failed", "no pair <is> left"),
    StepFailure("samples", "not run", "it needs dpo, which failed"),
]


def test_failed_steps_come_first_and_their_parts_are_left_out(run: RunPaths) -> None:
    page = page_of(run, FAILURES)
    left_out = {"samples", "dpo"}
    kept = [anchor for anchor in SECTIONS if anchor not in left_out]
    assert re.findall(r'<h2 id="([^"]*)"', page) == ["failures", *kept]
    assert rows(section(page, "failures")) == [
        ["dpo", "failed", "no pair <is> left"],
        ["samples", "not run", "it needs dpo, which failed"],
    ]
    assert [row[0] for row in rows(section(page, "before-after"))] == [
        "Pretraining",
        "Supervised fine-tuning",
    ]


def test_a_part_that_cannot_be_drawn_costs_that_part(run: RunPaths) -> None:
    run.evaluation.write_text('[{"stage": "pretrain"}]')
    with pytest.raises(KeyError, match="step"):
        page_of(run)
    page = run.report.read_text(encoding="utf-8")
    kept = [anchor for anchor in SECTIONS if anchor != "evaluation"]
    assert re.findall(r'<h2 id="([^"]*)"', page) == ["failures", *kept]
    (row,) = rows(section(page, "failures"))
    assert row[:2] == ["evaluation", "failed"]
    assert "its part of this page could not be drawn: internal error: KeyError: 'step'" in row[2]


def test_a_part_whose_step_was_not_run_is_left_out(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    write_json(paths.evaluation, EVALUATION)
    summary = write_report(paths, {})
    page = paths.report.read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="([^"]*)"', page) == ["evaluation"]
    assert summary["sections"] == 1
    assert "0 steps in 0:00" in page
