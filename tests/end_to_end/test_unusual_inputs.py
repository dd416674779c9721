"""The whole recipe, shrunk to seconds, over inputs of many kinds: each ends with a report, and what
cannot be trained on ends in words in the step that it concerns, never in an internal error.

The filters are relaxed, so that strange text reaches the later steps, but where a case says so.
"""

import base64
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from data_pipeline.sources.python_documentation import installed_readmes, render_modules
from data_pipeline.sources.warc_files import Page, write_warc
from lm_core.artifact_paths import RunPaths
from lm_core.settings import load_settings
from lm_course.pipeline.plan import PlannedStep, plan, steps_to_run
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.recipe_runner import run_recipe
from lm_course.pipeline.step_catalogue import named
from lm_course.pipeline.step_failures import StepsFailed, failure_path, read_failure

IN_EVERY_RUN = (
    "other languages and encodings",
    "300 identical pages",
    "a loss that runs away",
)  # the others are slow
RECIPE = Path(__file__).parents[2] / "recipes" / "demo_cpu.toml"
MODULES = [
    "abc", "bisect", "cmd", "colorsys", "contextvars", "fnmatch", "getpass", "glob", "heapq",
    "keyword", "linecache", "mimetypes", "netrc", "queue", "quopri", "reprlib", "sched", "shlex",
    "stat", "textwrap",
]  # fmt: skip
TINY = {
    "collect.num_processes": 1,
    "instructions.max_pairs_per_package": 60,
    "instructions.include_installed_packages": "false",
    "instructions.num_processes": 1,
    "documents.num_processes": 0,
    "tokenizer.vocab_size": 320,
    "shards.validation_share": 0.3,
    "pretrain.model.d_model": 16,
    "pretrain.model.num_layers": 1,
    "pretrain.model.num_heads": 2,
    "pretrain.model.num_kv_heads": 1,
    "pretrain.model.d_ff": 32,
    "pretrain.model.context_length": 128,
    "pretrain.training.steps": 4,
    "pretrain.training.batch_size": 4,
    "pretrain.training.warmup_steps": 1,
    "pretrain.training.checkpoint_every": 4,
    "pretrain.training.validate_every": 4,
    "pretrain.training.precision": '"float32"',
    "pretrain.validation_tokens": 1000,
    "evaluation.max_tokens": 1000,
    **{
        f"{stage}.{key}": value
        for stage in ("sft", "dpo")
        for key, value in {
            "max_tokens": 128,
            "max_heldout": 8,
            "training.steps": 2,
            "training.batch_size": 4,
            "training.warmup_steps": 1,
            "training.validate_every": 2,
            "training.checkpoint_every": 2,
            "training.precision": '"float32"',
        }.items()
    },
    "samples.max_new_tokens": 4,
    "scaling.sizes": "[{d_model=8,num_layers=1,num_heads=1,num_kv_heads=1,d_ff=16}]",
    "scaling.context_length": 32,
    "scaling.batch_size": 1,
    "scaling.token_budgets": "[64, 128]",
    "scaling.validation_tokens": 1000,
    "scaling.precision": '"float32"',
}
RELAXED = {
    "documents.language.languages": '["en", "de", "ja", "ru", "zh", ""]',
    "documents.language.min_confidence": 0,
    "documents.quality.min_words": 0,
    "documents.quality.max_words": 10_000_000,
    "documents.quality.min_mean_word_length": 0,
    "documents.quality.max_mean_word_length": 1e9,
    "documents.quality.max_symbol_share": 1e9,
    "documents.quality.max_bullet_line_share": 1,
    "documents.quality.max_ellipsis_line_share": 1,
    "documents.quality.min_alphabetic_share": 0,
    "documents.quality.min_stop_words": 0,
    "documents.quality.min_terminal_line_share": 0,
    "documents.quality.max_curly_brackets_per_word": 1e9,
}
NINE_RUNS = {  # enough for a fit, which takes longer than all else here
    "scaling.sizes": "[{d_model=8,num_layers=1,num_heads=1,num_kv_heads=1,d_ff=16},"
    "{d_model=16,num_layers=1,num_heads=1,num_kv_heads=1,d_ff=32},"
    "{d_model=24,num_layers=1,num_heads=1,num_kv_heads=1,d_ff=48}]",
    "scaling.token_budgets": "[64, 128, 192]",
}
Pages = list[Page]


@dataclass(frozen=True)
class Case:
    """An input: its pages, made from ordinary ones (None: what `collect` finds), settings that
    differ, and the step that fails ("" for none).
    """

    pages: Callable[[Pages], Pages] | None
    fails: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    relaxed: bool = True


def html(number: int, text: str | bytes, charset: str = "utf-8", kind: str = "text/html") -> Page:
    body = text if isinstance(text, bytes) else text.encode(charset)
    return Page(f"http://pages.test/{number}", kind, body, charset)


def paragraphs(words: Iterator[str] | list[str], number: int) -> str:
    return f"<html><body><h1>Page {number}</h1><p>{' '.join(words)}</p></body></html>"


def long_words(pages: Pages) -> Pages:
    """Words of 8,000 letters, as data: URLs and keys have them."""
    words = [base64.b64encode(random.Random(n).randbytes(6_000)).decode() for n in range(12)]
    return [html(n, paragraphs([word], n)) for n, word in enumerate(words)]


def foreign(pages: Pages) -> Pages:
    """Japanese, Russian and German, each in an encoding of its own."""
    texts = {
        "shift_jis": "この関数はリストの要素を並べ替えて返します。",
        "koi8-r": "Эта функция возвращает отсортированный список элементов. ",
        "iso-8859-1": "Diese Funktion gibt die sortierten Einträge der Liste zurück. ",
        "utf-16": "これは長い文章です。関数は値を返します。",
    }
    return [
        html(n, paragraphs([f"{n * 7919} {text}" * (10 + n)], n), charset)
        for n in range(6)
        for charset, text in texts.items()
    ]


def odd_bytes(pages: Pages) -> Pages:
    generator = random.Random(0)
    noise = [html(n, generator.randbytes(3000)) for n in range(15)]
    control = "".join(map(chr, range(32))) + "\x7f\x80\ufffe\u200b\u202e\U0001f600"
    return [*noise, *(html(100 + n, paragraphs([control * 20, str(n)], n)) for n in range(15))]


def sentences(pages: Pages) -> Pages:
    """Pages of one short sentence each."""
    return [html(n, f"<p>Number {n} is not {n + 1}.</p>") for n in range(40)]


def one_word(pages: Pages) -> Pages:
    return [html(n, paragraphs(["the"] * (500 + 700 * n), n)) for n in range(12)]


def special_tokens(pages: Pages) -> Pages:
    spelled = "<|endoftext|> &lt;|user|&gt; <|assistant|> <|end|> &lt;|endoftext|&gt; "
    return [html(n, paragraphs([f"{spelled} {n} words"] * 40, n)) for n in range(20)]


def one_huge_page(pages: Pages) -> Pages:
    body = b"".join(page.payload for page in pages) * 2
    return [html(0, body)]


def markup_only(pages: Pages) -> Pages:
    return [
        html(n, f"<html><body>{'<div><br><img src=x></div>' * n * 50}</body>") for n in range(9)
    ]


CASES = {
    "seed 1": Case(lambda pages: pages, settings={"pretrain.training.seed": 1, **NINE_RUNS}),
    "seed 2 everywhere": Case(
        lambda pages: pages,
        settings={f"{part}.seed": 2 for part in ("sft.training", "dpo.training", "scaling")},
    ),
    "ordinary filters": Case(lambda pages: pages, relaxed=False),
    "this machine, no READMEs": Case(
        None, relaxed=False, settings={"collect.max_modules": 8, "collect.include_readmes": "false"}
    ),
    "READMEs of other packages": Case(lambda pages: installed_readmes()[:40]),
    "three pages": Case(lambda pages: pages[:3]),
    "one page": Case(lambda pages: pages[:1], fails=("tokenizer",)),
    "one huge page": Case(one_huge_page, fails=("tokenizer",)),
    "no pages": Case(lambda pages: [], fails=("documents",)),
    "empty pages": Case(lambda pages: [html(n, b"") for n in range(20)], fails=("documents",)),
    "blanks": Case(
        lambda pages: [html(n, b" \n" * 75_000) for n in range(9)], fails=("documents",)
    ),
    "markup alone": Case(markup_only, fails=("documents",)),
    "not text": Case(
        lambda pages: [html(n, b"\x89PNG\r\n", kind="image/png") for n in range(9)],
        fails=("documents",),
    ),
    "another language, ordinary filters": Case(foreign, fails=("documents",), relaxed=False),
    "other languages and encodings": Case(foreign),
    "very long words": Case(long_words),
    "odd bytes": Case(odd_bytes),
    "short sentences": Case(sentences),
    "one word": Case(one_word),
    "special tokens spelled out": Case(special_tokens),
    "every page twice": Case(lambda pages: [*pages, *pages]),
    "300 identical pages": Case(lambda pages: sentences(pages)[:1] * 300, fails=("tokenizer",)),
    "more vocabulary than the text has merges": Case(
        sentences, settings={"tokenizer.vocab_size": 60_000}
    ),
    "a context longer than the text": Case(
        sentences, fails=("pretrain",), settings={"pretrain.model.context_length": 8192}
    ),
    "a loss that runs away": Case(
        lambda pages: pages,
        fails=("pretrain",),
        settings={"pretrain.training.learning_rate": 1e9, "scaling.learning_rate": 1e9},
    ),
    "no document held out": Case(
        lambda pages: pages, fails=("tokenizer",), settings={"shards.validation_share": 1e-9}
    ),
}


@dataclass(frozen=True)
class SharedSteps:
    """The steps that do not depend on the pages, run once; every case finds them up to date."""

    root: Path
    pages: Pages


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedSteps:
    root = tmp_path_factory.mktemp("unusual") / "runs" / "demo"
    recipe = recipe_for(root, {})
    steps = steps_to_run(planned(recipe, root), ["instructions"])
    run_recipe(recipe, RunPaths(root), steps, console=Console(quiet=True))
    pages, failures = render_modules(MODULES, 60.0, 2, lambda *arguments: None)
    assert not failures
    return SharedSteps(root, pages)


def planned(recipe: Recipe, root: Path) -> list[PlannedStep]:
    return plan([named(name) for name in recipe.run.steps], recipe.sections, root)


def recipe_for(root: Path, settings: dict[str, object]) -> Recipe:
    place = {"run.folder": f'"{root.parent}"'}
    overrides = [f"{key}={value}" for key, value in {**TINY, **place, **settings}.items()]
    return load_settings(Recipe, RECIPE, overrides)


@pytest.mark.parametrize(
    "name",
    [pytest.param(c, marks=() if c in IN_EVERY_RUN else pytest.mark.slow) for c in CASES],
)
def test_every_input_ends_with_a_report(
    shared: SharedSteps, tmp_path: Path, capfd, name: str
) -> None:
    case = CASES[name]
    paths = RunPaths(tmp_path / "runs" / "demo")
    shutil.copytree(shared.root, paths.root)
    settings = {**(RELAXED if case.relaxed else {}), **case.settings}
    if case.pages is not None:
        write_warc(tmp_path / "own.warc.gz", case.pages(shared.pages))
        settings["pages.warc_files"] = json.dumps([str(tmp_path / "own.warc.gz")])
    status, line = 0, ""
    recipe = recipe_for(paths.root, settings)
    steps = planned(recipe, paths.root)
    try:
        run_recipe(recipe, paths, steps)
    except StepsFailed as error:
        status, line = error.status, str(error)
    said = capfd.readouterr().out
    failures = [read_failure(paths, step.name) for step in steps]
    failed = {failure.step: failure for failure in failures if failure is not None}
    assert "internal error" not in said, said
    assert tuple(f.step for f in failed.values() if f.outcome == "failed") == case.fails, said
    assert status == (1 if case.fails else 0), line
    page = paths.report.read_text(encoding="utf-8")
    assert '<h2 id="settings">' in page
    assert ('<h2 id="failures">' in page) == bool(case.fails)
    for step in steps:
        assert failure_path(paths, step.name).exists() == (step.name in failed)
        assert paths.step_record(step.name).exists() == (step.name not in failed)
