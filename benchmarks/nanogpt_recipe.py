"""nanoGPT's documented recipe for a CPU, reproduced: a small GPT-2 on the characters of a text.

    python benchmarks/nanogpt_recipe.py TEXT [--steps 2000] [--output results.json]

The peer of benchmarks/shakespeare.py. The settings are those that nanoGPT's README gives for a
MacBook or other CPU: 4 layers, 4 heads, width 128, context 64, batches of 12, no dropout, 2,000
steps with 100 of warm-up and a cosine from 1e-3 to 1e-4, betas 0.9 and 0.99, decay 0.1 for
matrices, clipping at 1, float32, no compilation, and an estimate over 20 batches of both splits at
every 250th step. The model is GPT-2 without biases with tied embeddings, and attention is
PyTorch's. This is 0.80 M parameters, without the positions.

The loss that is compared is the mean over 200 batches of the validation split: the last 10 % of the
characters. Its windows are drawn with a fixed seed, and both contestants are given the same ones.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 128, 4, 4, 64, 12
HIGHEST, LOWEST, WARMUP, EVERY = 1e-3, 1e-4, 100, 250


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        parts = self.query_key_value(self.norms[0](x)).split(WIDTH, dim=2)
        heads = (part.view(batch, seq, HEADS, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, seq, WIDTH))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                branch = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS if branch else 1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def character_ids(text: str) -> tuple[list[str], Tensor]:
    """Return the distinct characters of a text, sorted, and the text as their numbers."""
    characters = sorted(set(text))
    return characters, torch.from_numpy(np.searchsorted(characters, list(text)))


def random_batch(ids: Tensor, rows: int, seq: int, generator: torch.Generator) -> list[Tensor]:
    starts = torch.randint(len(ids) - seq, (rows,), generator=generator)
    windows = [ids[start : start + seq + 1] for start in starts]
    return [torch.stack([w[:-1] for w in windows]), torch.stack([w[1:] for w in windows])]


def validation_batches(ids: Tensor, seq: int, count: int = 200) -> Iterator[list[Tensor]]:
    """Return the batches over which the compared loss is a mean."""
    generator = torch.Generator().manual_seed(0)
    return (random_batch(ids, BATCH, seq, generator) for _ in range(count))


@torch.no_grad()
def mean_loss(model: Callable[[Tensor], Tensor], batches: Iterator[list[Tensor]]) -> float:
    """Return the mean of the batches' losses, in nats per character."""
    losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in batches]
    return sum(losses) / len(losses)


def learning_rate_at(step: int, steps: int) -> float:
    if step < WARMUP:
        return HIGHEST * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (steps - WARMUP)
    return LOWEST + 0.5 * (1 + math.cos(math.pi * share)) * (HIGHEST - LOWEST)


def train(model: GPT, splits: dict[str, Tensor], steps: int) -> list[dict[str, float]]:
    """Train as the recipe says, and return the rows of its curve."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(1337)
    rows = []
    started = time.perf_counter()
    for step in range(steps + 1):
        if step % EVERY == 0:
            row: dict[str, float] = {"step": step}
            for name, ids in splits.items():
                batches = (random_batch(ids, BATCH, CONTEXT, generator) for _ in range(20))
                row[name] = mean_loss(model, batches)
            rows.append(row | {"seconds": time.perf_counter() - started})
            print(json.dumps(rows[-1]), flush=True)
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps)
        x, y = random_batch(splits["train"], BATCH, CONTEXT, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return rows


def run(text: Path, steps: int, started: float) -> dict[str, Any]:
    characters, ids = character_ids(text.read_text(encoding="utf-8"))
    border = int(0.9 * len(ids))
    splits = {"train": ids[:border], "validation": ids[border:]}
    torch.manual_seed(1337)
    model = GPT(len(characters))
    rows = train(model, splits, steps)
    seconds = time.perf_counter() - started
    return {
        "parameters": sum(p.numel() for p in model.parameters()) - CONTEXT * WIDTH,
        "steps": steps,
        "seconds": round(seconds, 1),  # from the start of main, the imports before it excluded
        "loss": round(mean_loss(model, validation_batches(splits["validation"], CONTEXT)), 4),
        "curve": rows,
    }


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    result = run(options.text, options.steps, started)
    print(json.dumps({key: value for key, value in result.items() if key != "curve"}))
    if options.output:
        options.output.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
