"""The same recipe on many ranks gives the loss curve of one process; a resume is exact on the same
number of ranks, and close on another.
"""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.user_error import UserError
from training import training_loop
from training.runs import pretraining
from transformer_lm.weights.pretrained import load_model

sys.path.append(str(Path(__file__).parent))
from gloo_ranks import Ranks
from tiny_runs import last_weights, make_run, rows, train

SPREADS = {
    "ddp": (),
    "fsdp": ("parallel.data=fsdp",),
    "fsdp and tensor": ("parallel.data=fsdp", "parallel.tensor=2"),
}
# Sums over ranks are rounded in another order. The largest difference when written was 5e-7.
TOLERANCE = 1e-5


class Killed(UserError):
    """Lets the checkpoint that is being written end; tests of kills are in test_faults.py."""


class FreshRanks:
    """New processes for each call. PyTorch's meshes and sharded tensors keep caches in a process,
    which are wrong when it becomes another rank of another group.
    """

    def call(self, *arguments):
        pool = Ranks()
        try:
            return pool.call(*arguments)
        finally:
            pool.stop()


@pytest.fixture
def ranks() -> FreshRanks:
    return FreshRanks()


def run_on_rank(rank: int, size: int, root: str, *runs: tuple[str, ...]) -> list[dict]:
    """Train one run after another, each in a folder named by its number."""
    folders = [Path(root) / str(number) for number in range(len(runs))]
    return [vars(train(folder, run, ranks=True)) for folder, run in zip(folders, runs, strict=True)]


def run_until(root: Path, overrides: tuple[str, ...], step: int) -> None:
    """End at the start of a step, as if all ranks were killed there."""
    batch = training_loop._batch

    def killing(run, number: int):
        if number == step:
            raise Killed
        return batch(run, number)

    training_loop._batch = killing
    try:
        train(root, overrides, ranks=True)
    except Killed:
        return
    finally:
        training_loop._batch = batch
    raise AssertionError("the run ended before")


STOPS = (11, 18)  # with and without a validation between the last checkpoint and the stop


def straight_and_stopped(rank: int, size: int, root: str, overrides: tuple[str, ...]) -> dict:
    """Train once without a stop; then stop at each of STOPS and resume. What is there after the
    first stop is kept in "for two", too.
    """
    states = {"straight": train(Path(root) / "straight", overrides, ranks=True)}
    for stop in STOPS:
        run_until(Path(root) / str(stop), overrides, stop)
        if stop == STOPS[0]:
            dist.barrier()
            if rank == 0:
                shutil.copytree(Path(root) / str(stop), Path(root) / "for two")
            dist.barrier()
        states[str(stop)] = train(Path(root) / str(stop), overrides, ranks=True)
    return {name: vars(state) for name, state in states.items()}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SPREADS if name != "fsdp"]


@pytest.fixture(scope="module", params=["fsdp", *SLOW])
def on_four(request, tmp_path_factory) -> tuple[str, Path, list[dict]]:
    """How the work was spread, the folder of the runs, and the states of the four ranks."""
    root = tmp_path_factory.mktemp("four")
    for name in ("straight", *map(str, STOPS)):
        make_run(root / name)
    states = FreshRanks().call(4, straight_and_stopped, str(root), SPREADS[request.param])
    return request.param, root, states


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The run in one process."""
    root = make_run(tmp_path_factory.mktemp("one"))
    train(root)
    return root


def check_curve(found: list[dict], expected: list[dict]) -> None:
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.pop("stage") == theirs["stage"]
        assert ours == pytest.approx(
            {k: v for k, v in theirs.items() if k != "stage"}, rel=TOLERANCE
        )


def test_four_ranks_have_the_loss_curve_of_one_process(straight, on_four):
    _, folder, states = on_four
    root = folder / "straight"
    check_curve(rows(root), rows(straight))
    losses = [state["straight"]["loss"] for state in states]
    assert losses == losses[:1] * 4
    folders = [r / "runs/tiny/checkpoints/pretrain/step_000020" for r in (root, straight)]
    ours, theirs = (load_model(folder) for folder in folders)
    for (name, expected), found in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("stop", STOPS)
def test_a_resume_on_as_many_ranks_is_exact(on_four, stop):
    _, folder, states = on_four
    assert {s[str(stop)]["resumed_from"] for s in states} == {(stop - 1) // 7 * 7}
    assert rows(folder / str(stop)) == rows(folder / "straight")
    assert last_weights(folder / str(stop)) == last_weights(folder / "straight")


def resume(rank: int, size: int, root: str, overrides: tuple[str, ...]) -> dict:
    return vars(train(Path(root), overrides, ranks=True))


def test_a_resume_on_two_ranks_of_a_run_on_four(ranks, straight, on_four):
    spread, folder, _ = on_four
    root = folder / "for two"
    state = ranks.call(2, resume, str(root), SPREADS[spread])[0]
    assert state["resumed_from"] == 7
    losses = [[row["loss"] for row in rows(each)[1:]] for each in (root, straight)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_one_process_takes_over_what_many_ranks_have_finished(on_four):
    _, folder, states = on_four
    root = folder / "straight"
    before = rows(root)
    again = train(root, code={"training": "hash of the code"})
    assert again.resumed_from == 20
    assert again.validation_after == states[0]["straight"]["validation_after"]
    assert rows(root) == before


def test_the_checkpoints_that_are_kept(on_four):
    folder = on_four[1] / "11" / "runs/tiny/checkpoints/pretrain"
    assert [path.name for path in list_checkpoints(folder)] == ["step_000000", "step_000020"]
    sharded = list((folder / "sharded").iterdir())
    assert [path.name for path in list_checkpoints(sharded[0])] == ["step_000014", "step_000020"]
    assert not list(folder.rglob(".unfinished-*"))


def drawing(rank: int, size: int, root: str) -> list[float]:
    """Train with a loss that draws random numbers, as dropout would: straight, and with a stop."""
    loss_sum, drawn = pretraining.language_model_loss_sum, []

    def noisy(model, batch, **settings):
        value, count = loss_sum(model, batch, **settings)
        drawn.append(torch.rand(()))
        return value * (0.5 + drawn[-1]), count

    pretraining.language_model_loss_sum = noisy
    train(Path(root) / "straight", ranks=True)
    first = drawn[1].item()  # after the one of the warm-up
    torch.rand(7)  # another process would not have this generator's state either
    run_until(Path(root) / "stopped", (), 9)
    torch.rand(7)
    train(Path(root) / "stopped", ranks=True)
    return [first]


@pytest.mark.slow
def test_the_random_state_of_each_rank_is_restored(tmp_path, ranks):
    straight, stopped = make_run(tmp_path / "straight"), make_run(tmp_path / "stopped")
    first = ranks.call(2, drawing, str(tmp_path))
    assert first[0] != first[1], "ranks that read other parts of a batch draw other numbers"
    assert rows(stopped) == rows(straight)


def stopped_in_validation(rank: int, size: int, root: str, overrides: tuple[str, ...]) -> list:
    """End in the validation of step 10, whose checkpoint is saved already; then resume."""
    train(Path(root) / "straight", overrides, ranks=True)
    validate = training_loop._validate

    def killing(run, state):
        if state.step == 10:
            raise Killed
        return validate(run, state)

    training_loop._validate = killing
    try:
        train(Path(root) / "stopped", overrides, ranks=True)
    except Killed:
        pass
    finally:
        training_loop._validate = validate
    run_until(Path(root) / "later", overrides, 12)  # the row of step 10 is then in the log
    states = [train(Path(root) / name, overrides, ranks=True) for name in ("stopped", "later")]
    return [state.resumed_from for state in states]


def test_a_run_that_ends_in_a_validation_has_saved_and_validates_again(tmp_path, ranks):
    straight, *others = (make_run(tmp_path / name) for name in ("straight", "stopped", "later"))
    changes = ("parallel.data=fsdp", "pretrain.training.checkpoint_every=5")
    assert ranks.call(2, stopped_in_validation, str(tmp_path), changes) == [[10, 10], [10, 10]]
    for root in others:
        assert "validation_loss" in rows(root)[10]
        assert rows(root) == rows(straight)
        assert last_weights(root) == last_weights(straight)


DOCUMENTS = ("pretrain.batches=documents", "pretrain.training.micro_batches=2")
NARROW = ("pretrain.training.precision=bfloat16", "parallel.data=fsdp")
MUON = ("pretrain.training.optimizer=muon",)
STATISTICS = ("pretrain.training.statistics_every=10",)
ON_TWO = (
    DOCUMENTS,
    (*DOCUMENTS, "parallel.data=fsdp"),
    NARROW,
    MUON,
    STATISTICS,
    (*STATISTICS, "parallel.data=fsdp", "parallel.tensor=2"),
)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("two")
    for number in range(len(ON_TWO)):
        make_run(root / str(number))
    FreshRanks().call(2, run_on_rank, str(root), *ON_TWO)
    return root


@pytest.mark.slow
def test_micro_batches_of_packed_documents(tmp_path, on_two):
    """Ranks and micro-batches then hold different numbers of tokens."""
    one = make_run(tmp_path)
    train(one, DOCUMENTS)
    for number in (0, 1):
        check_curve(rows(on_two / str(number)), rows(one))


@pytest.mark.slow
def test_bfloat16_with_sharded_weights_keeps_float32_shards(straight, on_two):
    folder = on_two / "2" / "runs/tiny/checkpoints/pretrain/step_000020"
    weights = load_model(folder, dtype=None)
    assert {p.dtype for p in weights.parameters()} == {torch.float32}
    narrow = [torch.equal(p, p.bfloat16().float()) for p in weights.parameters()]
    assert not any(narrow), "weights that were rounded to bfloat16 between steps"
    losses = [[row["loss"] for row in rows(each)[1:]] for each in (on_two / "2", straight)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


@pytest.mark.slow
def test_muon_on_replicas(tmp_path, on_two):
    one = make_run(tmp_path)
    train(one, MUON)
    losses = [[row["loss"] for row in rows(each)[1:]] for each in (one, on_two / "3")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


REFUSED = {
    ("pretrain.training.batch_size=9",): "batch_size = 9 cannot be divided among 2 ranks",
    ("pretrain.training.micro_batches=8",): "among 2 ranks x micro_batches = 8",
    ("parallel.tensor=2",): 'tensor = 2 needs data = "fsdp"',
    ("parallel.data=fsdp", "parallel.tensor=3"): "tensor = 3 does not divide the 2 ranks",
    (
        "parallel.data=fsdp",
        "parallel.tensor=2",
        "pretrain.model.d_ff=63",
    ): "tensor = 2 does not divide d_ff = 63",
    (
        "parallel.data=fsdp",
        "parallel.tensor=2",
        "pretrain.model.qk_norm=true",
    ): "does not work with qk_norm = true",
    ("parallel.data=fsdp", *MUON): 'optimizer = "muon" needs whole matrices',
}


def refusals(rank: int, size: int, root: str) -> list[str]:
    found = []
    for overrides in REFUSED:
        try:
            train(Path(root), overrides, ranks=True)
        except UserError as error:
            found.append(str(error))
    return found


def test_settings_that_do_not_fit_the_ranks(tmp_path, ranks):
    lines = ranks.call(2, refusals, str(make_run(tmp_path)))
    assert lines[0] == lines[1]
    for line, words in zip(lines[0], REFUSED.values(), strict=True):
        assert words in line


@pytest.mark.slow
def test_statistics_of_many_ranks_are_those_of_one_process(tmp_path, on_two):
    one = make_run(tmp_path)
    train(one, STATISTICS)
    for number in (4, 5):
        for row in (10, 20):
            expected, found = (
                {k: v for k, v in rows(root)[row].items() if k.startswith(("grad_norm", "resid"))}
                for root in (one, on_two / str(number))
            )
            assert "residual_rms/1" in expected and "grad_norm/attention.output" in expected
            assert found == pytest.approx(expected, rel=1e-4)
