"""Every step that is off by default, switched on: each drops or shortens the one page that was
written for it, and no other.
"""

import json

import pytest
from story_pages import FOOTER, SENTENCES, html, story

from data_pipeline.classifier_training.model_files import save_model
from data_pipeline.executors.document_building import (
    OPTIONAL_STEPS,
    DocumentSettings,
    build_documents,
)
from data_pipeline.quality_classifier import TrainingSettings, fit
from data_pipeline.rule_sets.verdict_files import read_verdicts
from data_pipeline.sources.warc_files import write_warc
from lm_core.artifact_paths import read_json
from lm_core.formats.documents import read_documents
from lm_core.user_error import UserError

pytest.importorskip("fasttext")
PLAIN_STORIES = 8
SHOP = "<p>Buy this lamp now and pay for it later, with free delivery to all of your shops.</p>"
THREAT = "<p>You are such a stupid grumbler, and I will hurt you badly when I have found you.</p>"
EXAM = "Which of the seven rivers that rise in the northern hills has never been frozen in winter?"
MENU = "Home of the lamp shop and of its friends"  # C4 drops a line without an end mark
COPIED = [s.format("copper", "collar") + " Copper number 77." for s in SENTENCES]


def fitted(examples, path):
    save_model(fit(examples * 20, TrainingSettings(epochs=10, dimensions=4, buckets=1000)), path)
    return str(path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """All steps and rule sets, with classifiers that know the pages above."""
    folder = tmp_path_factory.mktemp("models")
    good = [(story(number), "wiki") for number in range(100, 108)]
    shop = fitted([*good, *[(SHOP, "cc")] * 8], folder / "quality.bin")
    other = [(text, "non-toxic") for text, _ in [*good, (SHOP, "")]]
    toxic = fitted([*other, *[(THREAT, "toxic")] * 8], folder / "toxic.bin")
    exam = folder / "exam.jsonl"
    exam.write_text(json.dumps({"question": EXAM}) + "\n")
    asked = {
        "num_processes": 0,
        "quality": {"rules": ["gopher", "c4"], "also_measure": ["fineweb", "gopher_repetition"]},
        "quality_classifier": {"model": shop},
        "harmful": {"kinds": ["toxic"]},
        "exact_dedup": {"paragraphs": True},
        "substring_dedup": {"enabled": True, "min_words": 40},
        "decontamination": {"evaluation_sets": {"exam": str(exam)}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LM_TOXIC_MODEL", toxic)
        yield DocumentSettings.model_validate(asked)


@pytest.fixture(scope="module")
def warc(tmp_path_factory):
    copied = "".join(f"<p>{sentence}</p>" for sentence in COPIED)
    pages = [html(f"http://x/{number}", story(number)) for number in range(PLAIN_STORIES)]
    pages += [
        html("http://x/shop", 12 * SHOP),
        html("http://x/threat", 12 * THREAT),
        html("http://x/menu", f"<p>{MENU}</p>{story(20)}"),
        html("http://x/origin", f"{story(21)}{copied}"),
        html("http://x/paragraph", f"{story(22)}<p>{COPIED[0]}</p>"),
        html("http://x/substring", f"{story(23)}<p>And then: {' '.join(COPIED[1:])} The end.</p>"),
        html("http://x/exam", f"{story(24)}<p>{EXAM}</p>"),
    ]
    path = tmp_path_factory.mktemp("crawl") / "pages.warc.gz"
    write_warc(path, pages)
    return path


@pytest.fixture(scope="module")
def built(warc, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "documents"
    return build_documents([warc], folder, settings).counts, folder


def test_every_step_runs_and_drops_its_own_page(built):
    counts, _ = built
    assert [row["step"] for row in counts] == ["extract text", *OPTIONAL_STEPS]
    assert {row["step"]: row["dropped"] for row in counts if row["dropped"]} == {
        "quality classifier": {"low quality": 1},
        "harmful text": {"toxic": 1},
        "decontaminate": {"part of an evaluation set": 1},
    }


def test_what_is_repeated_is_cut_out_of_the_later_page(built):
    _, folder = built
    texts = {
        document.url.removeprefix("http://x/"): document.text for document in read_documents(folder)
    }
    assert list(texts) == [
        *map(str, range(PLAIN_STORIES)),
        "menu",
        "origin",
        "paragraph",
        "substring",
    ]
    assert all(sentence in texts["origin"] for sentence in COPIED if "@" not in sentence)
    assert COPIED[0] not in texts["paragraph"]
    assert "And then:" in texts["substring"]
    assert COPIED[2] not in texts["substring"]
    assert MENU not in texts["menu"], "a rule set that drops lines changes the text"
    assert not any(FOOTER in text for text in texts.values())


def test_what_was_found_is_reported(built):
    _, folder = built
    report = read_json(folder / "contamination.json", "", "")
    [row] = report["items"]
    assert row["documents"] == 1
    assert "http://x/exam" in json.dumps(row)
    verdicts = list(read_verdicts(folder / "verdicts.parquet"))
    assert len(verdicts) == PLAIN_STORIES + 7
    assert {verdict.first_failed for verdict in verdicts} == {None}
    assert len(verdicts[0].measures) > 20, "of rule sets that drop nothing, too"


def test_two_processes_write_the_same_files(warc, settings, built, tmp_path):
    several = settings.model_copy(update={"num_processes": 2})
    build_documents([warc], tmp_path / "documents", several)
    one, two = (sorted(folder.iterdir()) for folder in (built[1], tmp_path / "documents"))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.parametrize(
    ("changes", "step", "setting"),
    [
        ({"quality_classifier": {"threshold": 1.0}}, "quality classifier", "threshold"),
        ({"harmful": {"max_probability": 0.0}}, "harmful text", "max_probability"),
    ],
)
def test_a_step_that_drops_everything_names_its_threshold(
    warc, settings, tmp_path, changes, step, setting
):
    [[section, fields]] = changes.items()
    changed = getattr(settings, section).model_copy(update=fields)
    asked = settings.model_copy(update={section: changed})
    with pytest.raises(UserError, match=rf"the step '{step}' .* documents\.{section}\.{setting}$"):
        build_documents([warc], tmp_path / "documents", asked)


def test_a_harmful_model_with_other_labels_is_named_before_the_first_page(
    warc, settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("LM_TOXIC_MODEL", settings.quality_classifier.model)
    with pytest.raises(UserError, match=r"quality\.bin: expected .* labels non-toxic, toxic"):
        build_documents([warc], tmp_path / "documents", settings)
    assert not (tmp_path / "documents").exists()
