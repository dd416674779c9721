"""Packed documents against padding: useful tokens per second of a training step.

    python benchmarks/packing.py [--steps 9] [--rows 8] [--context 256] [--clock processor]

The documents are questions and answers from the docstrings of this machine's Python standard
library, in the chat template, with a tokenizer of 4,096 entries trained on them. The model is the
demo's. A step is forward, loss, backward, clipping and AdamW, on batches that are ready in memory:

- packed: `--rows` rows of `--context` tokens, as training/packed_documents.py makes them;
- padded to context: the same documents, one in a row of `--context` tokens, with a mask;
- padded to longest: the same, in rows as long as the longest document of the batch.

All three give the same loss, which is checked.

Useful tokens are those that count for the loss. The three alternate in one process, in an order
that changes with every step, and figures are medians over the steps: of wall seconds with two
threads or, on a busy machine, of processor seconds on one thread (`--clock processor`). The results
are written to packing_results.json next to this file, and as a table to the terminal.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_pipeline.instructions.instruction_mining import InstructionSettings, mine_instructions
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.chat_template import encode_chat
from tokenizer_bpe.compiled.lesson_or_compiled import train_bpe
from tokenizer_bpe.tokenizer import Tokenizer
from training.batching import Batch
from training.engine.fused_loss import fused_token_losses
from training.engine.fused_optimizer import FusedAdamW
from training.optimizers import clip_gradients
from training.packed_documents import (
    best_fit_rows,
    packed_batch,
    packing_efficiency,
    padded_batch,
)
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

HERE = Path(__file__).resolve().parent
VOCAB = 4096


def read_documents(context_length: int) -> tuple[list[np.ndarray], int]:
    """Return the conversations as token ids, in a fixed random order, and how many do not fit."""
    settings = InstructionSettings(include_installed_packages=False, num_processes=1)
    with tempfile.TemporaryDirectory() as folder:
        mine_instructions(Path(folder) / "instructions", settings)
        file = Path(folder) / "instructions" / "sft_train.jsonl"
        rows = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
        text = Path(folder) / "text.txt"
        text.write_text("\n".join(m["content"] for row in rows for m in row), "utf-8")
        vocab, merges = train_bpe(text, VOCAB, SPECIAL_TOKENS)
    tokenizer = Tokenizer(vocab, merges, SPECIAL_TOKENS)
    documents = [np.array(encode_chat(tokenizer, row)[0]) for row in rows]
    fitting = [document for document in documents if len(document) <= context_length + 1]
    order = np.random.default_rng(0).permutation(len(fitting))
    return [fitting[number] for number in order], len(documents) - len(fitting)


def loss_of(model: TransformerLM, batch: Batch, dtype: str) -> torch.Tensor:
    """Return the mean loss of the tokens that count."""
    borders = {name: batch[name] for name in ("cu_seqlens",) if name in batch.tensors}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        losses = fused_token_losses(model(batch["token_ids"], **borders), batch["targets"])
    if "mask" in batch.tensors:
        losses = losses * batch["mask"]
    return losses.sum() / batch.num_tokens


def make_step(model: TransformerLM, dtype: str) -> Callable[[Batch], None]:
    optimizer = FusedAdamW(model.named_parameters())

    def step(batch: Batch) -> None:
        loss_of(model, batch, dtype).backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step(1e-4)
        optimizer.zero_gradients()

    return step


CLOCKS = {"wall": (time.perf_counter, 2), "processor": (time.process_time, 1)}  # and threads


def measure(
    batches: dict[str, list[Batch]], step: Callable[[Batch], None], clock: Callable[[], float]
) -> dict[str, Any]:
    """Return for each way the medians of useful tokens/s and of seconds per step."""
    names = list(batches)
    for name in names:
        step(batches[name][0])  # a first step allocates memory
    rates: dict[str, list[float]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(len(batches[names[0]])):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            batch = batches[name][turn]
            started = clock()
            step(batch)
            seconds[name].append(clock() - started)
            rates[name].append(batch.num_tokens / seconds[name][-1])
    return {
        name: {
            "useful_tokens_per_second": round(statistics.median(rates[name])),
            "milliseconds": round(1e3 * statistics.median(seconds[name]), 1),
            "useful_tokens_per_step": round(
                statistics.mean(batch.num_tokens for batch in batches[name])
            ),
        }
        for name in names
    }


def batches_of(
    documents: list[np.ndarray], rows: list[list[int]], steps: int, rows_each: int, context: int
) -> dict[str, list[Batch]]:
    """Return the batches of each way; the same documents in all three."""
    order = np.random.default_rng(1).permutation(len(rows))
    batches: dict[str, list[Batch]] = {
        "packed": [],
        "padded to context": [],
        "padded to longest": [],
    }
    for start in range(0, steps * rows_each, rows_each):
        chosen = [rows[order[n % len(rows)]] for n in range(start, start + rows_each)]
        some = [documents[n] for row in chosen for n in row]
        batches["packed"].append(packed_batch(some))
        batches["padded to context"].append(padded_batch(some, context))
        batches["padded to longest"].append(padded_batch(some))
    return batches


def demo_model(context: int) -> TransformerLM:
    """Return a new model of the demo's shape."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=VOCAB,
        context_length=context,
        d_model=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        d_ff=704,
        tie_embeddings=False,
    )
    return TransformerLM(config).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--out", type=Path, default=HERE / "packing_results.json")
    options = parser.parse_args()
    clock, threads = CLOCKS[options.clock]
    torch.set_num_threads(threads)
    documents, num_too_long = read_documents(options.context)
    lengths = [len(document) - 1 for document in documents]
    rows = best_fit_rows(lengths, options.context)
    efficiency = packing_efficiency(lengths, rows, options.context)
    batches = batches_of(documents, rows, options.steps, options.rows, options.context)
    model = demo_model(options.context)
    with torch.no_grad():
        losses = [loss_of(model, batches[name][0], options.dtype).item() for name in batches]
    assert max(losses) - min(losses) < 1e-2, f"not the same documents: losses {losses}"
    found = measure(batches, make_step(model, options.dtype), clock)
    packed = found["packed"]["useful_tokens_per_second"]
    print("| batches | useful tokens a step | ms a step | useful tokens/s | packed is |")
    print("|---|---|---|---|---|")
    for name, row in found.items():
        row["packed_is_times_as_fast"] = round(packed / row["useful_tokens_per_second"], 2)
        print(
            f"| {name} | {row['useful_tokens_per_step']:,} | {row['milliseconds']:.0f} | "
            f"{row['useful_tokens_per_second']:,} | {row['packed_is_times_as_fast']:.2f}x |"
        )
    print(
        f"{len(documents):,} documents of {statistics.mean(lengths):.0f} tokens on average "
        f"({num_too_long} too long); packing efficiency {efficiency:.4f}"
    )
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads",
        "torch": torch.__version__,
        "settings": {name: value for name, value in vars(options).items() if name != "out"},
        "documents": len(documents),
        "documents_too_long": num_too_long,
        "mean_length": round(statistics.mean(lengths), 1),
        "packing_efficiency": round(efficiency, 4),
        "ways": found,
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
