"""A training step of ours against transformers' Llama of the same shape, on the same ids.

    python benchmarks/model_step.py [--repeats 5] [--sizes 12M 60M] [--lengths 256 1024]
    python benchmarks/model_step.py --gpu          # MFU of a 124 M and a 350 M model, compiled

A step is everything that a trainer does with a batch: forward, loss, backward, clipping, AdamW.
Ours is TransformerLM, fused_token_losses, clip_gradients and FusedAdamW of this repository. Theirs
is LlamaForCausalLM with its own loss, clip_grad_norm_ and torch's fused AdamW. Both use SDPA for
attention. bf16 is autocast over float32 weights. `compiled` wraps each model in torch.compile; the
compilation is not timed with the steps but reported separately. `default` is what each does if
nobody chooses: ours measures whether bfloat16 is faster, as `lm pretrain` does; theirs is float32
with torch.optim.AdamW as it is made without options. Both are eager.

Both models run in one process and alternate: A B B A ... Figures are medians of wall seconds with
two threads each or, on a busy machine, of processor seconds on one thread (`--clock processor`).
Every cell is checked: from equal weights, both give the same loss. The results are written to
model_step_results.json next to this file, and as a table to the terminal.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lm_core.device import faster_dtype
from training.engine.fused_loss import fused_token_losses
from training.engine.fused_optimizer import FusedAdamW
from training.optimizers import clip_gradients
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters, flops_per_token
from transformer_lm.weights.pretrained import from_hugging_face

HERE = Path(__file__).resolve().parent
VOCAB = 8192
TOKENS = 1024  # a step
SHAPES = {  # d_model, layers, heads, key heads, d_ff
    "12M": (320, 8, 5, 5, 864),
    "60M": (640, 12, 10, 10, 1728),
    "124M": (768, 12, 12, 12, 2048),
    "350M": (1024, 24, 16, 16, 2752),
}
MODES = ("eager", "compiled", "default")
Step = Callable[[], float]


def shape(name: str, length: int, vocab: int = VOCAB) -> ModelConfig:
    d_model, layers, heads, kv_heads, d_ff = SHAPES[name]
    return ModelConfig(
        vocab_size=vocab,
        context_length=length,
        d_model=d_model,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        d_ff=d_ff,
    )


def their_model(config: ModelConfig) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
    ).train()


def our_model(theirs: Any) -> TransformerLM:
    """Return our model with the same weights."""
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    return from_hugging_face(tensors, theirs.config.to_dict()).train()


def their_step(model: Any, mode: str, ids: torch.Tensor, dtype: str) -> Step:
    run = torch.compile(model) if mode == "compiled" else model
    fused = None if mode == "default" else True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=fused)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = run(input_ids=inputs, labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def our_step(model: TransformerLM, mode: str, ids: torch.Tensor, dtype: str) -> Step:
    run = torch.compile(model) if mode == "compiled" else model
    optimizer = FusedAdamW(model.named_parameters())
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = fused_token_losses(run(inputs), targets).mean()
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step(1e-4)
        optimizer.zero_gradients()
        return loss.item()

    return step


CLOCKS = {"wall": (time.perf_counter, 2), "processor": (time.process_time, 1)}  # and threads


def timed(
    step: Step,
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    synchronize()
    started = clock()
    loss = step()
    synchronize()
    return clock() - started, loss


def faster_type(model: TransformerLM, ids: torch.Tensor) -> str:
    """Return the type that `lm pretrain` chooses for this model on this machine."""

    def forward_and_backward(dtype: torch.dtype) -> None:
        with torch.autocast(ids.device.type, dtype, enabled=dtype == torch.bfloat16):
            loss = fused_token_losses(model(ids[:, :-1]), ids[:, 1:]).mean()
        loss.backward()
        model.zero_grad()

    dtype, _ = faster_dtype(forward_and_backward, ids.device, repeats=3)
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


def cell(
    name: str, length: int, dtype: str, mode: str, repeats: int, clock_name: str
) -> dict[str, Any]:
    """Measure both contestants at one size, length, type and mode."""
    clock, threads = CLOCKS[clock_name]
    torch.set_num_threads(threads)
    config = shape(name, length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (TOKENS // length, length + 1), generator=generator)
    torch.compiler.reset()
    theirs = their_model(config)
    ours = our_model(theirs)
    dtypes = {"ours": dtype, "transformers": dtype}
    if mode == "default":
        dtypes = {"ours": faster_type(ours, ids), "transformers": "float32"}
    steps = {
        "ours": our_step(ours, mode, ids, dtypes["ours"]),
        "transformers": their_step(theirs, mode, ids, dtypes["transformers"]),
    }
    first = {who: timed(step, clock=clock) for who, step in steps.items()}
    losses = [loss for _, loss in first.values()]
    assert abs(losses[0] - losses[1]) < 2e-2, f"not the same model: first losses {losses}"
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    for turn in range(repeats):
        for who in sorted(steps, reverse=turn % 2 == 1):  # neither always runs after the other
            seconds[who].append(timed(steps[who], clock=clock)[0])
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    row = {
        "model": name,
        "parameters": count_parameters(config),
        "length": length,
        "dtype": dtypes["ours"] if len(set(dtypes.values())) == 1 else dtypes,
        "mode": mode,
        "ours_ms": round(1e3 * medians["ours"], 1),
        "transformers_ms": round(1e3 * medians["transformers"], 1),
        "ratio": round(medians["transformers"] / medians["ours"], 2),
        "repeats": repeats,
        "clock": clock_name,
        "first_step_seconds": {who: round(time_, 1) for who, (time_, _) in first.items()},
    }
    print(json.dumps(row), flush=True)
    return row


def on_gpu(repeats: int) -> list[dict[str, Any]]:
    """Return model FLOPs utilization relative to the matrix-product rate that this GPU reaches."""
    if not torch.cuda.is_available():
        print("model_step.py --gpu: no CUDA device found; run it on a machine with one", flush=True)
        raise SystemExit(2)
    peak = matmul_flops_per_second()
    rows = []
    for name, batch in (("124M", 32), ("350M", 16)):
        config = shape(name, 1024, vocab=50304)
        ids = torch.randint(0, config.vocab_size, (batch, 1025), device="cuda")
        model = TransformerLM(config).cuda().train()
        step = our_step(model, "compiled", ids, "bfloat16")
        timed(step, torch.cuda.synchronize)
        seconds = statistics.median(
            timed(step, torch.cuda.synchronize)[0] for _ in range(max(repeats, 10))
        )
        tokens = batch * 1024
        flops = flops_per_token(config, 1024) * tokens / seconds
        rows.append(
            {
                "model": name,
                "parameters": count_parameters(config),
                "tokens_per_second": round(tokens / seconds),
                "tflops": round(flops / 1e12, 1),
                "measured_peak_tflops": round(peak / 1e12, 1),
                "share_of_measured_peak": round(flops / peak, 3),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def matmul_flops_per_second(size: int = 8192) -> float:
    """Return the rate of a large bfloat16 product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda: float((a @ b)[0, 0]), torch.cuda.synchronize)[0] for _ in range(20)]
    return 2 * size**3 / statistics.median(seconds[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["12M", "60M"], choices=list(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.gpu:
        rows = on_gpu(options.repeats)
        machine = torch.cuda.get_device_name()
    else:
        rows = [
            cell(name, length, dtype, mode, options.repeats, options.clock)
            for mode in options.modes
            for name in options.sizes
            for length in options.lengths
            for dtype in (["float32"] if mode == "default" else options.dtypes)
        ]
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    name = "model_step_gpu_results.json" if options.gpu else "model_step_results.json"
    results = {"machine": machine, "tokens_per_step": TOKENS, **versions, "rows": rows}
    (options.out or HERE / name).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
