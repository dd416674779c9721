"""Checkpoints of many ranks: every rank writes its own shards, while training continues.

    checkpoints/pretrain/sharded/<fingerprint>/step_000500/
      __0_0.distcp  __1_0.distcp  .metadata    weights, optimizer, random state of each rank
      training_state.json                      step, fingerprint, the loop's state

They are written by torch.distributed.checkpoint, which reads them on another number of ranks too.
The tensors are copied, and a thread writes the copies under a temporary name; when all ranks are
done, rank 0 renames the folder. A run that is killed meanwhile has its previous checkpoint. Step 0
and the end are also written whole, by rank 0, in the layout of one process, so that everything that
reads a checkpoint finds them.

What this leaves out: whole checkpoints of models that do not fit into the memory of one machine.
"""

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lm_core.artifact_paths import TEMPORARY_PREFIX, read_json, remove_path, write_json
from lm_core.formats.checkpoint_files import (
    STATE,
    TrainingState,
    checkpoint_name,
    list_checkpoints,
)
from lm_core.random_state import (
    capture_random_state,
    derived_seed,
    restore_random_state,
    seed_everything,
)
from lm_core.user_error import UserError
from training.engine.agreement import in_one_line, is_of_the_group, on_main
from training.runs.optimizer_settings import Optimizer
from training.runs.run_checkpoints import RunCheckpoints
from transformer_lm.language_model import TransformerLM
from transformer_lm.weights.empty_model import empty_model
from transformer_lm.weights.pretrained import with_weights

SHARDED = "sharded"


class ShardedCheckpoints:
    """The checkpoints of one run on many ranks; every method is called on all ranks.

    Args:
        whole: those of a run in one process, beside which they lie.
        is_main: whether this is rank 0.
        seed_names: for new random numbers on a rank that the run did not have before.
    """

    def __init__(
        self, whole: RunCheckpoints, is_main: bool, seed_names: tuple[int, ...] = ()
    ) -> None:
        self.whole = whole
        self.is_main = is_main
        self.seed_names = seed_names
        self.all_runs = whole.folder / SHARDED
        self.folder = self.all_runs / whole.fingerprint[:16]
        self.group = dist.new_group(backend="gloo")  # the thread's own collectives
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.failure: str | None = None  # of the last save, in one line

    def find(self) -> TrainingState | None:
        """Return the state of the newest checkpoint of this run; the log then ends with its step,
        or before it if its row was not complete. None if this run has no checkpoint.
        """

        def newest() -> dict[str, Any] | None:
            self.whole.choose()
            found = list_checkpoints(self.folder)
            if not found:
                self.whole.set_aside()
                self.whole.metric_log.rewind(-1)
                return None
            described = read_json(
                found[-1] / STATE, "the training state", "", "delete this checkpoint folder"
            )
            unfinished = described["extra"].get("unfinished_row") is not None
            self.whole.metric_log.rewind(described["step"] - unfinished)
            return described

        described = on_main(newest)
        if described is None:
            return None
        return TrainingState(
            described["step"], described["fingerprint"], {}, {}, described["extra"]
        )

    def restore(self, state: TrainingState, model: nn.Module, optimizer: Optimizer) -> None:
        """Restore the weights, the optimizer and this rank's random state."""
        folder = self.folder / checkpoint_name(state.step)
        reader = dcp.FileSystemReader(folder)
        tensors = _tensors(model, optimizer)
        random_state = {f"{self._prefix}{name}": t for name, t in capture_random_state().items()}
        try:
            known = reader.read_metadata().state_dict_metadata
            own = {name: tensor for name, tensor in random_state.items() if name in known}
            dcp.load(tensors | own, storage_reader=reader, process_group=self.group)
        except (CheckpointException, OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder}: this checkpoint cannot be read ({_first_cause(error)}); delete its "
                "folder to resume from the one before"
            ) from None
        prefix = "optimizer/"
        optimizer.load_state(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
        if own:
            restore_random_state({n.removeprefix(self._prefix): t for n, t in own.items()})
        else:  # a rank that the earlier run did not have
            seed_everything(derived_seed(state.step, self.whole.fingerprint, *self.seed_names))

    @property
    def _prefix(self) -> str:
        return f"random/{dist.get_rank()}/"

    def save(
        self, model: nn.Module, optimizer: Optimizer, step: int, extra: dict[str, Any]
    ) -> None:
        """Begin to write a checkpoint; wait only for the one before."""
        self.wait()
        tensors = _tensors(model, optimizer)
        tensors |= {f"{self._prefix}{name}": t for name, t in capture_random_state().items()}
        copies = BlockingAsyncStager(cache_staged_state_dict=False).stage(tensors)
        described = {"step": step, "fingerprint": self.whole.fingerprint, "extra": dict(extra)}
        self.failure = None
        if step == 0:
            self.save_whole(model, optimizer, step, extra)
        self.writing = self.thread.submit(self._write, copies, described)

    def _write(self, tensors: dict[str, Any], described: dict[str, Any]) -> None:
        folder = self.folder / checkpoint_name(described["step"])
        temporary = folder.with_name(TEMPORARY_PREFIX + folder.name)
        try:
            writer = dcp.FileSystemWriter(temporary, thread_count=1)
            dcp.save(tensors, storage_writer=writer, process_group=self.group)
            if self.is_main:
                write_json(temporary / STATE, described)
                remove_path(folder)
                temporary.rename(folder)
                for old in list_checkpoints(self.folder)[: -self.whole.keep]:
                    remove_path(old)
        except (CheckpointException, OSError, RuntimeError) as error:
            if is_of_the_group(error):
                raise dist.DistError(str(error)) from None  # raised again by `wait`
            self.failure = (
                f"the checkpoint of step {described['step']} was not saved: {_first_cause(error)}"
            )
            if self.is_main:
                remove_path(temporary)
                print(f"{self.failure}; the one before is whole", file=sys.stderr)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete, or has failed."""
        if self.writing is not None:
            self.writing.result()

    def discard(self, step: int) -> None:
        """Remove the checkpoint of a step whose weights turned out to be ruined."""
        self.wait()
        on_main(lambda: remove_path(self.folder / checkpoint_name(step)))

    def save_whole(
        self, model: TransformerLM, optimizer: Optimizer, step: int, extra: dict[str, Any]
    ) -> None:
        """Write a checkpoint in the layout of one process."""
        tensors = {name: _whole(tensor) for name, tensor in _tensors(model, optimizer).items()}

        def write() -> None:
            weights, state = ({}, {})
            for name, tensor in tensors.items():
                kind, _, rest = name.partition("/")
                {"model": weights, "optimizer": state}[kind][rest] = tensor
            copy = with_weights(empty_model(model.config), weights)
            self.whole.save(copy, _Saved(state), step, extra)

        on_main(write)

    def finish(
        self, model: TransformerLM, optimizer: Optimizer, step: int, extra: dict[str, Any]
    ) -> None:
        """Write the last weights whole, and remove other runs' checkpoints."""
        self.wait()
        self.thread.shutdown()
        self.save_whole(model, optimizer, step, extra)

        def remove_others() -> None:
            self.whole.finish()
            for other in self.all_runs.iterdir() if self.all_runs.is_dir() else ():
                if other != self.folder:
                    remove_path(other)

        on_main(remove_others)


class _Saved:
    """Stands for an optimizer whose state has been gathered."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def state(self) -> dict[str, Tensor]:
        return self.tensors


def _tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the weights and the optimizer's state by name: the tensors themselves, not copies."""
    if isinstance(model, FSDPModule):
        model.reshard()  # after a validation, the outer weights are still whole
    tensors = {f"model/{name}": weight.detach() for name, weight in model.named_parameters()}
    return tensors | {f"optimizer/{name}": tensor for name, tensor in optimizer.state().items()}


def _whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor on the CPU; all ranks take part."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def _first_cause(error: BaseException) -> str:
    """Return one line about the error, that of the first rank that failed."""
    failures = getattr(error, "failures", None)
    if failures:
        rank = min(failures)
        return f"rank {rank}: {in_one_line(failures[rank][0])}"
    return in_one_line(error).removesuffix("; free some space and run the same command again")
