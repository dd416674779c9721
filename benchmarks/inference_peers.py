"""The other side of inference_speed.py: `transformers`, llama.cpp, and servers over HTTP."""

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lm_course.commands.model_commands import import_model

LM = [sys.executable, "-m", "lm_course"]
LOAD = [
    *("--prompt-tokens", "24-87", "--answer-tokens", "8-96", "--shared-prefix-tokens", "256"),
    *("--concurrency", "64", "--seed", "0", "--fields", '{"temperature": 0}'),
]
LLAMA = """
import sys, time, json
from llama_cpp import Llama
path, prompt, new, threads = json.loads(sys.argv[1])
model = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
rates = []
for _ in range(3):
    model.reset()
    times = []
    for token in model.generate(prompt, temp=0.0):
        times.append(time.perf_counter())
        if len(times) > new:
            break
    rates.append(new / (times[-1] - times[0]))
print(sorted(rates)[1])
"""


@cache
def peer_folder(gguf: Path) -> Path:
    """Return a folder with the model as `transformers` loads it; its weights are not quantized."""
    folder = Path(tempfile.mkdtemp()) / "smollm2"
    import_model(gguf, folder)
    return folder


@cache
def peer_model(gguf: Path) -> Any:
    """Return the model of `transformers` in bfloat16."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(peer_folder(gguf), dtype=torch.bfloat16).eval()


@torch.no_grad()
def peer_rate(model: Any, prompts: Sequence[Sequence[int]], new: int) -> float:
    """Return tokens per second of `generate` after the first token; shorter prompts are padded on
    the left, and every answer gets `new` tokens.
    """
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    clock = Clock()
    model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        min_new_tokens=new,
        max_new_tokens=new,
        pad_token_id=0,
        logits_processor=[clock],
    )
    return len(prompts) * (new - 1) / (time.perf_counter() - clock.first)


class Clock:
    """Notes when the logits of the first new token are there."""

    first: float | None = None

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if self.first is None:
            self.first = time.perf_counter()
        return logits


def llama_cpp_rate(python: str, gguf: Path, prompt: Sequence[int], new: int) -> float:
    """Return tokens per second of llama.cpp after the first token, the median of three."""
    told = json.dumps([str(gguf), list(prompt), new, torch.get_num_threads()])
    ended = subprocess.run([python, "-c", LLAMA, told], check=True, capture_output=True, text=True)
    return float(ended.stdout)


def serve_rates(gguf: Path, requests: int) -> dict[str, float]:
    """Return the output tokens per second of `lm serve` and of `transformers serve`, each with the
    weights in bfloat16, under the same load of `lm bench serve`.
    """
    folder = peer_folder(gguf)
    ours = [*LM, "serve", "--model", str(gguf), "--weights", "bfloat16", "--port", "8123"]
    bin_folder = Path(sys.executable).parent
    theirs = [str(bin_folder / "transformers"), "serve", str(folder), "--dtype", "bfloat16"]
    theirs += ["--port", "8124", "--host", "127.0.0.1"]
    rates = {}
    for name, command, port in (("ours", ours, 8123), ("transformers", theirs, 8124)):
        with running(command, port), tempfile.TemporaryDirectory() as out:
            load = [*LM, "bench", "serve", *LOAD, "--num-requests", str(requests), "--out", out]
            load += ["--url", f"http://127.0.0.1:{port}/v1", "--time-limit", "600"]
            if name == "transformers":
                load += ["--model", str(folder)]
            subprocess.run(load, check=True)
            report = json.loads((Path(out) / "report.json").read_text(encoding="utf-8"))
        rates[name] = report["levels"][0]["output_tokens_per_second"]
    return rates


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[None]:
    """Run a server, and wait until it answers."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except urllib.error.HTTPError:
                    break  # it answers
                except OSError:
                    if process.poll() is not None:
                        raise SystemExit(f"{command[:3]} has ended") from None
                    time.sleep(0.5)
            else:
                raise SystemExit(f"{command[:3]} does not answer")
            yield
        finally:
            process.send_signal(signal.SIGINT)
