"""The checkpoints that are kept, those that are continued, and the state that a resume restores."""

import pytest
import torch

from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.formats.metric_log import MetricLog
from training.optimizers import AdamW
from training.runs.run_checkpoints import RunCheckpoints, run_fingerprint
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import load_model

CONFIG = ModelConfig(
    vocab_size=20,
    context_length=8,
    d_model=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    d_ff=24,
)


def make_checkpoints(folder, fingerprint: str = "f", keep: int = 2) -> RunCheckpoints:
    companions = {"tokenizer.json": b"{}"}
    log = MetricLog(folder / "metrics.jsonl", "pretrain")
    return RunCheckpoints(folder, fingerprint, log, companions, {"eos_token_id": 3}, keep)


VARIANTS = [
    {},
    {"norm_position": "post", "norm": "layernorm"},
    {"position": "none", "mlp": "gelu"},
    {"qk_norm": True, "sliding_window": 3},
]


def make_model(seed: int = 0, **changes) -> tuple[TransformerLM, AdamW]:
    torch.manual_seed(seed)
    model = TransformerLM(CONFIG.model_copy(update=changes))
    return model, AdamW(model.named_parameters())


def resume(checkpoints: RunCheckpoints, model: TransformerLM, optimizer: AdamW):
    state = checkpoints.find()
    if state is not None:
        checkpoints.restore(state, model, optimizer)
    return state


def names(folder) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, [0, 5]), (2, [0, 4, 5]), (9, [0, 1, 2, 3, 4, 5])]
)
def test_step_0_and_the_newest_are_kept(tmp_path, keep, expected):
    for step in range(6):
        make_checkpoints(tmp_path, keep=keep).save(*make_model(), step, {})
    assert names(tmp_path) == [f"step_{step:06}" for step in expected]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_resume_puts_everything_back(tmp_path, variant):
    """For every variant, including those that no model family in transformers has."""
    model, optimizer = make_model(**variant)
    model(torch.arange(8)[None]).logsumexp(-1).mean().backward()
    optimizer.step(0.1)
    folder = make_checkpoints(tmp_path).save(model, optimizer, 1, {"precision": "float32"})
    drawn = torch.rand(3)

    other, other_optimizer = make_model(seed=9, **variant)
    state = resume(make_checkpoints(tmp_path), other, other_optimizer)
    assert torch.equal(torch.rand(3), drawn), "the generator's state is restored"
    assert (state.step, state.extra) == (1, {"precision": "float32"})
    for (name, expected), found in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, found), name
    for name, expected in optimizer.state().items():
        assert torch.equal(expected, other_optimizer.state()[name]), name
    assert (folder / "tokenizer.json").read_bytes() == b"{}"
    assert load_model(folder).config == model.config


def test_another_run_is_set_aside_until_the_new_one_has_ended(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    one, two = make_checkpoints(tmp_path, "one"), make_checkpoints(tmp_path, "two")
    for step in (0, 4):
        one.metric_log.append({"step": step, "loss": 1.0})
        one.save(*make_model(), step, {})
    assert resume(two, *make_model()) is None
    assert names(tmp_path) == [] and two.metric_log.rows() == []
    two.metric_log.append({"step": 0, "loss": 9.0})
    two.save(*make_model(seed=1), 0, {})  # and then it is interrupted

    assert resume(one, *make_model()).step == 4, "the settings of the first run find it again"
    assert names(tmp_path) == ["step_000000", "step_000004"]
    assert [row["loss"] for row in one.metric_log.rows()] == [1.0, 1.0]

    assert resume(two, *make_model()) is None
    two.save(*make_model(), 0, {})
    two.finish()
    assert resume(make_checkpoints(tmp_path, "one"), *make_model()) is None, "gone for good"
    assert (tmp_path / "notes.txt").exists()


def test_of_two_unfinished_runs_the_finished_one_outlives_both(tmp_path):
    for fingerprint in ("finished", "broken off", "broken off too"):
        checkpoints = make_checkpoints(tmp_path, fingerprint)
        resume(checkpoints, *make_model())
        checkpoints.save(*make_model(), 3, {})
    assert resume(make_checkpoints(tmp_path, "finished"), *make_model()).step == 3


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    make_checkpoints(tmp_path).save(*make_model(), 4, {})
    (tmp_path / ".unfinished-abcstep_000008").mkdir()
    assert resume(make_checkpoints(tmp_path), *make_model()).step == 4
    assert names(tmp_path) == ["step_000004"]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_checkpoint_is_no_resume(tmp_path):
    assert resume(make_checkpoints(tmp_path / "absent"), *make_model()) is None


def test_fingerprints_do_not_depend_on_the_order_of_keys():
    first = run_fingerprint(a={"x": 1, "y": 2}, b=3)
    assert first == run_fingerprint(b=3, a={"y": 2, "x": 1})
    assert first != run_fingerprint(b=3, a={"y": 2, "x": 2})
