"""`torchrun --nproc-per-node N -m training.engine RECIPE`: the pretraining of a recipe on N ranks.

It reads the sections [run], [pretrain] and [parallel] of a recipe; shards and tokenizer are where
the earlier steps of `lm run` put them, in the run's folder below the current folder, and the
checkpoints go where `lm pretrain` puts them. A user error is one line, from one rank, and exit
status 2. SIGTERM and Ctrl-C save a checkpoint, and the ranks end with status 0.

What this leaves out: the other steps of a recipe, which run in one process (`lm run`).
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydantic
import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from lm_core.artifact_paths import RunPaths, read_json
from lm_core.device import pick_device
from lm_core.formats.metric_log import MetricLog
from lm_core.formats.token_shards import MANIFEST, TokenShards
from lm_core.settings import Settings, load_settings
from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError
from training.engine.agreement import in_one_line, is_of_the_group, on_all, on_main
from training.engine.many_ranks import ManyRanks
from training.engine.parallelism import OneProcess, Parallelism, ParallelSettings
from training.engine.stop_signals import StoppedBySignal
from training.runs.pretraining import PretrainSettings, pretrain

# DTensor's advice about gathering matrices that both axes divide, for a whole checkpoint.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)

STAGE = "pretrain"
OTHER_RANK_FAILED = (
    "another rank has ended or does not answer, so training stops; start the same command again, "
    "with any number of ranks, to resume from the last checkpoint"
)


class RunSection(Settings):
    """The part of a recipe's section [run] that says where the run lies.

    Attributes:
        name: the run's folder.
        folder: the folder of all runs, relative to the current folder.
        steps: the steps of `lm run`, which do not matter here.
    """

    name: str
    folder: str = "runs"
    steps: list[str] = pydantic.Field(default_factory=list)


class EngineRecipe(Settings):
    """The sections of a recipe that training reads; others are ignored.

    Attributes:
        run: where the run lies.
        pretrain: what to train.
        parallel: how the work is spread.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True)
    run: RunSection
    pretrain: PretrainSettings
    parallel: ParallelSettings = ParallelSettings()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit status of this rank."""
    parser = argparse.ArgumentParser(prog="python -m training.engine", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a file, or the name of one in recipes/")
    parser.add_argument(
        "--set", action="append", dest="overrides", metavar="SECTION.KEY=VALUE", default=[]
    )
    parser.add_argument("--wandb", action="store_true", help="also log to wandb, from rank 0")
    given = parser.parse_args(arguments)
    try:
        _train(given)
    except StoppedBySignal as stopped:
        if _is_main():
            _say(f"{STAGE}: {stopped}; the same command resumes from there")
        return 0
    except (UserError, OSError) as error:
        _say_once(in_one_line(error))
        return 2
    except RuntimeError as error:  # of a collective whose other ranks are gone
        if not is_of_the_group(error):
            raise
        _say_once(OTHER_RANK_FAILED)
        return 1
    return 0


def _train(given: argparse.Namespace) -> None:
    recipe = load_settings(EngineRecipe, _recipe_file(given.recipe), given.overrides)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        _train_in_group(given, recipe, OneProcess(), recipe.pretrain)
        return
    device = _device_of_rank(recipe.pretrain.device)
    _join(device, recipe.parallel.timeout)
    ranks = ManyRanks(recipe.parallel, device)
    manifest = RunPaths(Path(recipe.run.folder) / recipe.run.name).shards / MANIFEST
    shards = manifest.read_text() if manifest.exists() else None
    ranks.check_agreement([recipe.model_dump(mode="json"), shards])
    settings = recipe.pretrain.model_copy(update={"device": str(device)})
    _train_in_group(given, recipe, ranks, settings)
    dist.destroy_process_group()


def _recipe_file(given: Path) -> Path:
    """Return the file in ./recipes for a name without a folder and an ending."""
    named = Path("recipes") / f"{given}.toml"
    is_name = not given.suffix and given.parent == Path()
    return named if is_name and named.is_file() and not given.exists() else given


def _train_in_group(
    given: argparse.Namespace, recipe: EngineRecipe, ranks: Parallelism, settings: PretrainSettings
) -> None:
    paths = RunPaths(Path(recipe.run.folder) / recipe.run.name)
    many = isinstance(ranks, ManyRanks)
    companions = (on_all if many else _call)(lambda: tokenizer_files(paths))
    with ExitStack() as stack:
        lock = FileLock(paths.root / ".lock", mode=0o666)
        stack.callback(lock.release)
        (on_main if many else _call)(lambda: _lock(lock, paths.root))
        mirror = _wandb(recipe, paths, stack) if given.wandb and ranks.is_main else None
        done = pretrain(
            settings,
            paths.shards,
            paths.checkpoints(STAGE),
            MetricLog(paths.metrics, STAGE, mirror),
            parallelism=ranks,
            **companions,
        )
    if ranks.is_main:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:.3f}" for name, value in done.validation_after.items()
        )
        print(f"{STAGE}: {done.step} steps, {done.tokens:,} tokens, {done.precision}, {figures}")


def _call(function: Callable[[], Any]) -> Any:
    return function()


def tokenizer_files(paths: RunPaths) -> dict[str, Any]:
    """Return what `pretrain` stores beside the weights: the run's tokenizer, as its bytes.

    Raises:
        ValueError: the tokenizer has another number of entries than the shards' vocabulary.
    """
    described = read_json(paths.tokenizer, "the tokenizer", "lm tokenizer train RECIPE")
    try:
        special = {token["content"]: token["id"] for token in described["added_tokens"]}
        entries = len({*described["model"]["vocab"].values(), *special.values()})
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{paths.tokenizer}: not a tokenizer of this project; make it again with "
            "`lm tokenizer train RECIPE`"
        ) from None
    shards = TokenShards.open(paths.shards, "train")
    if shards.vocab_size != entries:
        raise UserError(
            f"{paths.shards}: made with a vocabulary of {shards.vocab_size}, but {paths.tokenizer} "
            f"has {entries} entries; make the shards again with `lm data shard RECIPE`"
        )
    files = [path for path in (paths.tokenizer, paths.merges) if path.exists()]
    end = special.get(END_OF_TEXT)
    return {
        "companion_files": {path.name: path.read_bytes() for path in files},
        "special_token_ids": {} if end is None else {"eos_token_id": end, "pad_token_id": end},
    }


def _lock(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another lm or engine is running in this folder; wait until it ends, or "
            "choose another folder with --set run.name=NAME"
        ) from None


def _wandb(recipe: EngineRecipe, paths: RunPaths, stack: ExitStack) -> Any:
    import wandb

    run = wandb.init(
        project="language-models",
        name=recipe.run.name,
        dir=str(paths.root),
        mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
        config=recipe.model_dump(mode="json"),
    )
    stack.callback(run.finish)
    return run


def _device_of_rank(name: str) -> torch.device:
    device = pick_device(name)
    if device.type == "mps":
        raise UserError(f'device {name!r}: many ranks need CUDA or a CPU; set device = "cpu"')
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _join(device: torch.device, seconds: float) -> None:
    """Join the process group that torchrun's environment describes."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        why = "the port is in use" if "EADDRINUSE" in str(error) else "no answer from rank 0"
        raise UserError(
            f"{where}: {why}; choose a free port, the same on all ranks (--master-port)"
        ) from None


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_once(line: str) -> None:
    """Print the line, unless another rank has printed one: the first to fail knows the cause."""
    if dist.is_initialized():
        try:
            store = dist.distributed_c10d._get_default_store()
            is_first = store.add("engine/failed", 1) == 1
            if is_first:
                _say(f"{STAGE}: {line}")
            if _is_main() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                _wait_for_others(store)  # the store ends with this process
            return
        except RuntimeError:  # the store's process is gone
            pass
    _say(f"{STAGE}: {line}")


def _wait_for_others(store: dist.Store) -> None:
    """Wait until all ranks have failed too, for two seconds at most."""
    until = time.monotonic() + 2
    while store.add("engine/failed", 0) < dist.get_world_size() and time.monotonic() < until:
        time.sleep(0.02)


if __name__ == "__main__":
    status = main()
    # A thread that waits for ranks that are gone would keep the process alive.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
