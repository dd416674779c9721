"""The whole path, shrunk: what each step is there to achieve did happen, and the artifacts are what
they say.
"""

import html
import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.engine.engine import Engine
from inference.sampling import SamplingSettings
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.documents import read_documents
from lm_core.formats.metric_log import read_metrics
from tokenizer_bpe.inspection.token_display import visible_text
from tokenizer_bpe.tokenizer import Tokenizer

STAGES = ("pretrain", "sft", "dpo")


def figures(run, stage: str, key: str) -> list[float]:
    rows = read_metrics(run.folder / "metrics.jsonl", stage)
    return [row[key] for row in rows if key in row]


def test_every_artifact_is_there(shrunk_run) -> None:
    expected = (
        "pages.warc.gz", "instructions", "documents", "tokenizer.json", "merges.txt", "shards",
        "checkpoints/pretrain", "checkpoints/sft", "checkpoints/dpo", "metrics.jsonl",
        "evaluation.json", "samples.json", "scaling/runs.csv", "report.html", "settings.json",
    )  # fmt: skip
    assert [name for name in expected if not (shrunk_run.folder / name).exists()] == []
    assert not list(shrunk_run.folder.rglob(".unfinished-*"))


def test_validation_loss_falls(shrunk_run) -> None:
    bits_per_byte = figures(shrunk_run, "pretrain", "validation_bits_per_byte")
    assert len(bits_per_byte) == 3
    assert bits_per_byte[-1] < 0.85 * bits_per_byte[0]
    answers = figures(shrunk_run, "sft", "heldout_loss")
    assert answers[-1] < 0.9 * answers[0]


def test_dpo_starts_at_its_reference_and_moves(shrunk_run) -> None:
    """A model this small ranks the pairs of this machine by chance, before and after, and 30
    batches that it sees once do not change that (their loss was 0.707, above ln 2); in
    tests/alignment there are pairs that it can learn.
    """
    losses = figures(shrunk_run, "dpo", "heldout_dpo_loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert figures(shrunk_run, "dpo", "heldout_reward_margin")[0] == pytest.approx(0, abs=1e-5)
    assert abs(losses[-1] - losses[0]) > 1e-4


def test_evaluation_has_every_checkpoint_and_agrees_with_training(shrunk_run) -> None:
    rows = json.loads((shrunk_run.folder / "evaluation.json").read_text())
    found = {(row["stage"], row["step"]) for row in rows}
    for stage in STAGES:
        last = latest_checkpoint(shrunk_run.folder / "checkpoints" / stage)
        assert {(stage, 0), (stage, int(last.name[5:]))} <= found
    logged = figures(shrunk_run, "pretrain", "validation_bits_per_byte")
    evaluated = [row["bits_per_byte"] for row in rows if row["stage"] == "pretrain"]
    # Training may validate in bfloat16, the evaluation is in float32.
    assert evaluated[0] == pytest.approx(logged[0], rel=0.01)
    assert evaluated[-1] == pytest.approx(logged[-1], rel=0.01)


@pytest.mark.parametrize("stage", STAGES)
def test_transformers_loads_the_checkpoint_with_the_same_logits(shrunk_run, stage: str) -> None:
    folder = latest_checkpoint(shrunk_run.folder / "checkpoints" / stage)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = Engine.from_checkpoint(folder).model
    ids = torch.randint(0, ours.config.vocab_size, (2, 100), generator=torch.manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_transformers_generates_the_same_greedy_text(shrunk_run) -> None:
    folder = latest_checkpoint(shrunk_run.folder / "checkpoints" / "dpo")
    prompt = "This module provides"
    ours = Engine.from_checkpoint(folder).complete(prompt, SamplingSettings(temperature=0.0), 30)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(new, skip_special_tokens=True) == ours


def test_tokenizers_gives_the_same_ids_on_a_thousand_passages(shrunk_run) -> None:
    """Passages: the paragraphs of the documents, each different one once. The shrunk run has fewer
    than a hundred documents, far too few and too alike to be a thousand.
    """
    path = shrunk_run.folder / "tokenizer.json"
    ours = Tokenizer.from_hugging_face(path)
    theirs = HuggingFaceTokenizer.from_file(str(path))
    texts = [document.text for document in read_documents(shrunk_run.folder / "documents")]
    passages = sorted({passage for text in texts for passage in text.split("\n\n") if passage})
    assert len(passages) >= 1000
    for passage in [*texts, *passages]:
        assert ours.encode(passage) == theirs.encode(passage, add_special_tokens=False).ids


def test_the_counts_of_the_funnel_connect(shrunk_run) -> None:
    counts = json.loads((shrunk_run.folder / "documents" / "counts.json").read_text())
    for row, following in itertools.pairwise(counts):
        assert row["documents_out"] == following["documents_in"]
        assert row["documents_in"] - row["documents_out"] == sum(row["dropped"].values())
    assert counts[-1]["documents_out"] == len(list(read_documents(shrunk_run.folder / "documents")))


def section(run, anchor: str) -> str:
    """The markup of one section of the page, from its heading to the next."""
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    return re.search(f'<h2 id="{anchor}">(.*?)(?=<h2 |<footer>)', page, re.DOTALL)[1]


def plain(markup: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", markup))


def table_rows(markup: str) -> list[list[str]]:
    """The text of a table's cells, without its header."""
    found = re.findall("<tr>(.*?)</tr>", markup, re.DOTALL)[1:]
    return [[plain(cell) for cell in re.findall("<td[^>]*>(.*?)</td>", row)] for row in found]


def test_the_report_is_self_contained_and_has_every_section(shrunk_run) -> None:
    page = (shrunk_run.folder / "report.html").read_text()
    assert page.count("<svg") == 12
    markup = re.sub("<pre>.*?</pre>", "", page, flags=re.DOTALL)  # documents may have these words
    for forbidden in ("<script", "<link", "@import", 'src="http', "url(http"):
        assert forbidden not in markup
    assert re.findall(r'<h2 id="([^"]*)"', page) == [
        "samples", "before-after", "funnel", "documents", "examples", "tokenizer", *STAGES,
        "evaluation", "scaling", "times", "settings",
    ]  # fmt: skip


def test_the_report_shows_before_and_after_in_this_order(shrunk_run) -> None:
    bits = figures(shrunk_run, "pretrain", "validation_bits_per_byte")
    answers = figures(shrunk_run, "sft", "heldout_loss")
    ranking = figures(shrunk_run, "dpo", "heldout_ranking")
    rows = table_rows(section(shrunk_run, "before-after"))
    assert [row[2:] for row in rows] == [
        [f"{bits[0]:.4f}", f"{bits[-1]:.4f}", "120"],
        [f"{answers[0]:.4f}", f"{answers[-1]:.4f}", "60"],
        [f"{ranking[0]:.1%}", f"{ranking[-1]:.1%}", "20"],
    ]


def test_the_report_shows_the_funnel(shrunk_run) -> None:
    counts = json.loads((shrunk_run.folder / "documents" / "counts.json").read_text())
    rows = table_rows(section(shrunk_run, "funnel"))
    shown = [(step, number) for step, _, number, *_ in rows]
    assert shown == [(row["step"], f"{row['documents_out']:,}") for row in counts]
    for row, (*_, reasons) in zip(counts, rows, strict=True):
        for reason, number in row["dropped"].items():
            assert f"{reason} {number:,}" in reasons
    assert any(row["dropped"] for row in counts)


def test_the_chat_names_its_model_first(shrunk_run) -> None:
    """The input ends at once: no message is sent."""
    done = shrunk_run.lm("chat")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Model: runs/demo/checkpoints/dpo/step_000020\nType a message.")


def test_the_report_shows_what_the_models_said(shrunk_run) -> None:
    samples = json.loads((shrunk_run.folder / "samples.json").read_text())
    shown = plain(section(shrunk_run, "samples"))
    assert len(samples["chat"]) == len(samples["completions"]) == 3
    for row in samples["chat"]:
        before, after = row["replies"]
        assert (
            f"{row['question']}{before['label']}{before['text']}{after['label']}{after['text']}"
        ) in shown
    for row in samples["completions"]:
        assert row["prompt"] + row["text"] in shown
        assert row["text"].strip()


def test_the_report_lists_the_first_merges_of_the_tokenizer(shrunk_run) -> None:
    visible = visible_text  # the alphabet of `lm tokenizer inspect`

    merges = Tokenizer.from_hugging_face(shrunk_run.folder / "tokenizer.json").merges
    first, longest = re.findall('<div class="tokens">(.*?)</div>', section(shrunk_run, "tokenizer"))
    shown = [plain(text) for text in re.findall('<span class="token">(.*?)</span>', first)]
    assert shown == [f"{visible(left)} + {visible(right)}" for left, right in merges[:48]]
    assert longest.count('class="token"') == 24


def test_settings_of_the_run_are_saved_resolved(shrunk_run) -> None:
    settings = json.loads((shrunk_run.folder / "settings.json").read_text())
    assert settings["tokenizer"]["vocab_size"] == 1024
    assert settings["documents"]["minhash"]


def test_the_second_run_finds_every_step_up_to_date(shrunk_run) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in sorted(Path(shrunk_run.folder).rglob("*.safetensors"))
    }
    done = shrunk_run.lm_recipe("run")
    assert done.returncode == 0
    assert done.stdout.count("up to date") == 12
    assert before == {p: p.stat().st_mtime_ns for p in before}
