"""The step `scaling` always has a result: a surface, or the reasons why there is none."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lm_core.artifact_paths import RunPaths
from lm_core.formats.token_shards import ShardWriter
from lm_core.settings import load_settings
from lm_core.user_error import UserError
from lm_course.model_steps import scaling as scaling_step
from lm_course.model_steps.scaling import describe_scaling, fit_or_words, scaling
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.step import StepContext, artifact_files
from lm_course.report.report_page import write_report
from scaling_laws import parametric_fit
from scaling_laws.compute_budget import multiplied_parameters
from scaling_laws.loss_surface import LossSurface
from scaling_laws.small_runs.runs_csv import FinishedRun
from scaling_laws.small_runs.sweep import SweepResult, planned_run
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import tokenizer_hash
from transformer_lm.model_config import ModelConfig

# A fit calls small functions tens of thousands of times; tests/scaling_laws checks their types.
pytestmark = pytest.mark.usefixtures("unchecked_types")

RECIPE = Path(__file__).parents[3] / "recipes" / "demo_cpu.toml"
TINY = [
    "scaling.bootstraps=5",  # a hundred refits take seconds
    "scaling.context_length=16",
    "scaling.batch_size=2",
    "scaling.token_budgets=[64, 320, 640]",
    'scaling.device="cpu"',
    'scaling.precision="float32"',
    "scaling.sizes=["
    + ", ".join(
        f"{{d_model = {d}, num_layers = 1, num_heads = 2, num_kv_heads = 1, d_ff = {2 * d}}}"
        for d in (8, 16)
    )
    + "]",
]


@pytest.fixture
def context_of(tmp_path):
    """Make a run with the given numbers of tokens, in which only the step `scaling` is missing."""

    def make(train: int = 2000, validation: int = 200, *overrides: str) -> StepContext:
        paths = RunPaths(tmp_path / "run")
        paths.root.mkdir()
        inputs = {name: artifact_files(paths.root, name) for name in ("tokenizer", "shards")}
        Tokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(inputs["tokenizer"][0])
        lengths = np.ones(256, dtype=np.int32)
        hashed = tokenizer_hash(inputs["tokenizer"][0])
        with ShardWriter(inputs["shards"][0], hashed, 256, lengths) as writer:
            writer.add("train", np.arange(train) % 7)
            writer.add("validation", np.arange(validation) % 7)
        summary = {"parameters": 9900, "multiplied_parameters": 9000}
        summary |= {"tokens": 5000, "validation_loss_after": 3.5}
        recipe = load_settings(Recipe, RECIPE, [*TINY, *overrides])
        return StepContext(
            "scaling",
            paths.root,
            sections={"scaling": recipe.scaling},
            inputs=inputs,
            outputs={"scaling": (paths.scaling,)},
            records={"pretrain": {"summary": summary}},
        )

    return make


def result_of(context: StepContext) -> tuple[str, dict, str]:
    """Return the terminal's line, fit.json, and the report's section without its markup."""
    summary = scaling(context)
    paths = RunPaths(context.root)
    fit = json.loads((paths.scaling / "fit.json").read_text())
    write_report(paths, {})
    page = paths.report.read_text()
    section = re.search('<h2 id="scaling">(.*?)(?=<h2 |<footer>)', page, re.DOTALL)[1]
    assert section.count("<svg") == 1
    return describe_scaling(summary), fit, re.sub("<[^>]*>", "", section)


def test_a_sweep_that_settles_nothing_says_so(context_of) -> None:
    line, fit, section = result_of(context_of())
    assert len(fit["runs"]) == 6
    assert line.startswith("6 small runs do not determine a surface: ")
    assert "the losses are those of 200 validation tokens only" in line
    assert "These runs do not determine a surface" in section
    for doubt in fit["doubts"]:
        assert doubt in section
    low, high = fit["main_run"]["interval"]
    assert f"bootstraps: {low:.3f} to {high:.3f}" in section


def test_the_recipe_says_how_many_times_the_surface_is_fitted_again(
    context_of, monkeypatch
) -> None:
    fits = []

    def fit_surface(runs: list[FinishedRun], num_bootstraps: int) -> LossSurface:
        fits.append(parametric_fit.fit_surface(runs, num_bootstraps=num_bootstraps))
        return fits[-1]

    monkeypatch.setattr(scaling_step, "fit_surface", fit_surface)
    scaling(context_of(2000, 200, "scaling.bootstraps=3"))
    assert [len(fit.resampled) for fit in fits] == [3]


@pytest.mark.parametrize(
    ("tokens", "budgets", "expected"),
    [
        (400, "64, 320", "no run was trained on 640 tokens: more than the 400 training tokens"),
        (100, "64", "no run was trained on 320 or 640 tokens: more than the 100 training tokens"),
    ],
)
def test_a_short_training_text_leaves_budgets_out(
    context_of, tokens: int, budgets: str, expected: str
) -> None:
    line, fit, section = result_of(context_of(tokens))
    assert sorted({run["tokens"] for run in fit["runs"]}) == [int(b) for b in budgets.split(",")]
    assert expected in section
    assert fit["surface"] is None
    assert "no surface can be fitted: got" in section
    assert "there is no prediction of it" in section
    assert "predicted nothing, measured 3.50" in line


def test_a_text_shorter_than_every_budget_is_one_line(context_of) -> None:
    with pytest.raises(UserError, match=r"every token budget .* the 60 training tokens"):
        scaling(context_of(60))


@pytest.mark.parametrize("validation", [2, 3])
def test_a_validation_text_of_a_handful_of_tokens(context_of, validation: int) -> None:
    _, _, section = result_of(context_of(2000, validation))
    assert f"the losses are those of {validation} validation tokens only" in section


def test_a_validation_text_of_one_token_is_one_line(context_of) -> None:
    with pytest.raises(UserError, match="validation holds 1 tokens, at least 2 are needed"):
        scaling(context_of(2000, 1))


def test_runs_that_diverge_are_left_out(context_of, monkeypatch) -> None:
    from training import training_loop

    checked = training_loop.check_finite

    def diverging(step: int, loss: float, *given: float) -> None:
        checked(step, float("nan") if step == 20 else loss, *given)

    monkeypatch.setattr(training_loop, "check_finite", diverging)
    _, fit, section = result_of(context_of())
    assert [run["tokens"] for run in fit["runs"]] == [64, 320] * 2
    assert "diverged at step 20 of 20 (learning rate" in section


def test_a_run_that_its_last_update_ruins_is_left_out(context_of, monkeypatch) -> None:
    """No later step sees the broken weights, but the validation does."""
    from training.runs import pretraining

    measured, seen = pretraining._validation_figures, []

    def ruined(shards, planned, parallelism, model):
        seen.append(model)
        if planned.training.steps == 10 and seen.count(model) == 2:
            next(model.parameters()).fill_(float("nan"))
        return measured(shards, planned, parallelism, model)

    monkeypatch.setattr(pretraining, "_validation_figures", ruined)
    _, fit, section = result_of(context_of())
    assert [run["tokens"] for run in fit["runs"]] == [64, 640] * 2
    assert "diverged at step 10 of 10 (learning rate" in section


def test_a_sweep_in_which_everything_diverges_is_one_line(context_of) -> None:
    with pytest.raises(UserError, match=r"all 6 runs of the sweep diverged; lower \[scaling\]"):
        scaling(context_of(2000, 200, "scaling.learning_rate=1e30"))


NINE_SMALL_RUNS = [  # of a demo whose fit once gave alpha = 202 and a traceback
    (155808, 39936, 6.635176), (155808, 99328, 6.425025), (155808, 249856, 6.010085),
    (400832, 39936, 6.572387), (400832, 99328, 6.193402), (400832, 249856, 5.734290),
    (1262720, 39936, 6.662134), (1262720, 99328, 6.182604), (1262720, 249856, 5.541140),
]  # fmt: skip


def test_nine_runs_whose_loss_does_not_fall_with_size(context_of, monkeypatch) -> None:
    result = SweepResult([FinishedRun(*run) for run in NINE_SMALL_RUNS], [])
    monkeypatch.setattr(scaling_step, "run_sweep", lambda *given, **named: result)
    line, fit, section = result_of(context_of())
    assert len(fit["curves"]) == 3
    assert 0 <= fit["surface"]["alpha"] <= 2
    assert "the loss does not always fall with size: at 39,936 tokens it rises" in section
    assert line.startswith("9 small runs do not determine a surface: the loss")
    assert line.endswith("measured 3.50 nats per token")


def test_runs_without_doubt_are_a_plain_line() -> None:
    runs = [
        FinishedRun(n, d, 1.7 + 400 / n**0.34 + 1500 / d**0.37)
        for n, d in itertools.product((1e7, 1e8, 1e9), (1e8, 1e9, 1e10))
    ]
    fit = fit_or_words(runs, [], bootstraps=5)
    assert (fit.doubts, fit.surface.settled) == ([], True)
    summary = {"runs": 9, "doubts": [], "predicted": 2.345, "measured": 2.5}
    assert describe_scaling(summary) == (
        "9 small runs; predicted 2.35, measured 2.50 nats per token"
    )
    assert fit_or_words(runs, ["a remark"], bootstraps=5).doubts == ["a remark"]


def test_a_loss_that_no_fit_takes_is_words() -> None:
    runs = [FinishedRun(n, d, 1e300) for n in (1, 2, 3) for d in (4, 5, 6)]
    fit = fit_or_words(runs, [], bootstraps=5)
    assert fit.surface is None
    assert "no surface can be fitted: run 1: loss must be a positive number" in fit.doubts[0]


def test_the_demos_sweep_follows_its_rule() -> None:
    """One rule gives every width's learning rate; sizes and tokens cover a wide range that is close
    to the main run.
    """
    recipe = load_settings(Recipe, RECIPE)
    main, sweep = recipe.pretrain, recipe.scaling
    plan = [
        planned_run(sweep, size, budget)
        for size in sorted(sweep.sizes, key=lambda size: size.d_model)
        for budget in sorted(sweep.token_budgets)
    ]
    for run in plan:
        rate = sweep.learning_rate * sweep.learning_rate_width / run.model.d_model
        assert run.training.learning_rate == pytest.approx(rate)
        assert run.training.warmup_steps == run.training.steps // 10
        assert (run.model.context_length, run.validation_tokens) == (
            main.model.context_length,
            main.validation_tokens,
        ), "or its loss is not comparable with the main run's"
        assert run.model.tie_embeddings == main.model.tie_embeddings
    sizes = [multiplied_parameters(ModelConfig(vocab_size=4096, **vars(run.model))) for run in plan]
    main_size = multiplied_parameters(ModelConfig(vocab_size=4096, **vars(main.model)))
    assert max(sizes) / min(sizes) > 8
    assert main_size / max(sizes) < 4
    tokens = [
        run.training.steps * run.training.batch_size * run.model.context_length
        for run in [*plan, main]
    ]
    assert max(tokens[:-1]) / min(tokens) > 6
    assert tokens[-1] / max(tokens[:-1]) < 7
