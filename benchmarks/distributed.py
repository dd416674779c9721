"""Our DataParallel against torch's, and our FullySharded against fully_shard, on gloo processes.

    python benchmarks/distributed.py [--ranks 2 4] [--steps 20] [--size 3M] [--schemes data sharded]

A step is forward, loss, backward, the end of synchronization and AdamW, of the same TransformerLM
from the same weights on the same ids, one thread a process. Both contestants live in the same
processes and alternate: A B B A ... All ranks wait for each other before each step, and a step's
time is that of the slowest rank. Figures are medians: of wall seconds, of rank 0's processor
seconds (its threads that send included), and of the ratio, theirs divided by ours, of two steps
that followed each other. On a busy machine, read the ratio and the processor seconds. Every cell is
checked: after the steps, both have the same weights.

torch's contestants have their defaults: DistributedDataParallel with 25 MiB buckets, fully_shard on
each block and on the whole model. The results are written to distributed_results.json next to this
file.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.data_parallel import DataParallel
from training.engine.fused_loss import fused_token_losses
from training.fully_sharded import FullySharded
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters

HERE = Path(__file__).resolve().parent
SHAPES = {  # d_model, layers, heads, d_ff, vocabulary
    "1M": (128, 4, 4, 344, 2048),
    "3M": (192, 6, 6, 512, 2048),
    "12M": (320, 8, 5, 864, 8192),
}
LENGTH = 64
SEQUENCES = 4  # of each rank


def shape(name: str) -> ModelConfig:
    d_model, layers, heads, d_ff, vocab = SHAPES[name]
    return ModelConfig(
        vocab_size=vocab,
        context_length=LENGTH,
        d_model=d_model,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        d_ff=d_ff,
    )


def contestants(scheme: str, name: str) -> dict[str, nn.Module]:
    """Return both wrappers around equal models."""
    torch.manual_seed(0)
    ours = TransformerLM(shape(name))
    theirs = copy.deepcopy(ours)
    if scheme == "data":
        return {
            "ours": DataParallel(ours),
            "torch": nn.parallel.DistributedDataParallel(theirs),
        }
    from torch.distributed.fsdp import fully_shard

    for block in theirs.blocks:
        fully_shard(block)
    fully_shard(theirs)
    return {"ours": FullySharded(ours), "torch": theirs}


def stepper(model: nn.Module, ids: torch.Tensor) -> Callable[[], None]:
    """Return a function that does one training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    finish = getattr(model, "finish_gradient_synchronization", lambda: None)

    def step() -> None:
        fused_token_losses(model(inputs), targets).mean().backward()
        finish()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def weights(model: nn.Module) -> list[torch.Tensor]:
    if isinstance(model, FullySharded):
        return list(model.full_parameters().values())
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]


def run_rank(rank: int, ranks: int, store: str, scheme: str, name: str, steps: int) -> None:
    """Measure both contestants; rank 0 writes its row to `store`.json."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    models = contestants(scheme, name)
    vocab = shape(name).vocab_size
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(0, vocab, (SEQUENCES, LENGTH + 1), generator=generator)
    stepping = {who: stepper(model, ids) for who, model in models.items()}
    seconds: dict[str, list[float]] = {who: [] for who in models}
    processor: dict[str, list[float]] = {who: [] for who in models}
    for turn in range(steps + 2):
        for who in sorted(stepping, reverse=turn % 2 == 1):  # neither always runs after the other
            dist.barrier()
            started, worked = time.perf_counter(), time.process_time()
            stepping[who]()
            worked = time.process_time() - worked
            slowest = torch.tensor(time.perf_counter() - started)
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            if turn >= 2:  # the first two warm up
                seconds[who].append(slowest.item())
                processor[who].append(worked)
    pairs = zip(*(weights(model) for model in models.values()), strict=True)
    difference = max((a - b).abs().max().item() for a, b in pairs)
    assert difference < 1e-2, f"not the same training: weights differ by {difference}"
    if rank == 0:
        Path(f"{store}.json").write_text(json.dumps([seconds, processor]), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def cell(scheme: str, ranks: int, name: str, steps: int) -> dict[str, Any]:
    """Measure one scheme on one number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/group"
        mp.spawn(run_rank, (ranks, store, scheme, name, steps), nprocs=ranks)
        seconds, processor = json.loads(Path(f"{store}.json").read_text(encoding="utf-8"))
    ratios = [a / b for a, b in zip(seconds["torch"], seconds["ours"], strict=True)]
    row = {
        "scheme": {"data": "DataParallel", "sharded": "FullySharded"}[scheme],
        "ranks": ranks,
        "parameters": count_parameters(shape(name)),
        "ours_ms": milliseconds(seconds["ours"]),
        "torch_ms": milliseconds(seconds["torch"]),
        "ours_processor_ms": milliseconds(processor["ours"]),
        "torch_processor_ms": milliseconds(processor["torch"]),
        "ratio": round(statistics.median(ratios), 2),
        "steps": steps,
    }
    print(json.dumps(row), flush=True)
    return row


def milliseconds(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", choices=list(SHAPES), default="3M")
    parser.add_argument("--schemes", nargs="+", default=["data", "sharded"])
    parser.add_argument("--out", type=Path, default=HERE / "distributed_results.json")
    options = parser.parse_args()
    rows = [
        cell(scheme, ranks, options.size, options.steps)
        for scheme in options.schemes
        for ranks in options.ranks
    ]
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "tokens_per_rank": SEQUENCES * LENGTH,
        "rows": rows,
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
