"""The rows of the table of inference_speed.py: what each measures, on both sides."""

import argparse
import math
import subprocess
import sys
import time

from inference_peers import llama_cpp_rate, peer_model, peer_rate, serve_rates
from inference_workloads import (
    ROOT,
    decode_rate,
    finish,
    in_turns,
    made,
    measured_machine,
    prompts_of,
    smollm2,
    static_group,
    submit,
)

from inference.engine.batch_engine import BatchEngine
from inference.engine.forward_pass import ChunkRows
from inference.latency_model import decode_tokens_per_second, memory_for_cache
from lm_course.commands.model_commands import engine_at

BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.5, "int4": 5.75}  # of a weight, with scales


class Rows:
    """The rows of the table; each method measures one and returns its figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.path = smollm2()
        self.engine = engine_at(self.path)
        self.machine = measured_machine()

    def _roofline(self, batch: int, length: int, weights: str) -> float:
        """Return the predicted tokens per second."""
        cache_bits = 32 if weights == "float32" else 16
        return decode_tokens_per_second(
            self.engine.model.config, batch, length, self.machine, BITS[weights], cache_bits
        )

    def decode_1(self) -> dict[str, float]:
        """One request in bfloat16, against `transformers`."""
        [prompt], peer = prompts_of(self.engine, [64]), peer_model(self.path)
        batch = made(self.engine, "bfloat16")
        figures = in_turns(
            self.options.turns,
            ours=lambda: decode_rate(batch, [prompt], 100),
            transformers=lambda: peer_rate(peer, [prompt], 100),
        )
        return {
            **figures,
            "ratio": figures["ours"] / figures["transformers"],
            "roofline": self._roofline(1, 114, "bfloat16"),
        }

    def decode_1_int4(self) -> dict[str, float]:
        """One request in the four bits of the file, and in int8, against llama.cpp on the file."""
        [prompt] = prompts_of(self.engine, [64])
        int4, int8 = made(self.engine, "int4"), made(self.engine, "int8")
        sides = {
            "int4": lambda: decode_rate(int4, [prompt], 100),
            "int8": lambda: decode_rate(int8, [prompt], 100),
        }
        python = self.options.llama_python
        if python:
            sides["llama_cpp"] = lambda: llama_cpp_rate(python, self.path, prompt, 100)
        figures = in_turns(self.options.turns, **sides)
        if python:
            figures["ratio"] = figures["int4"] / figures["llama_cpp"]
        return {
            **figures,
            "roofline int4": self._roofline(1, 114, "int4"),
            "roofline int8": self._roofline(1, 114, "int8"),
        }

    def decode_16(self) -> dict[str, float]:
        """16 requests of the same length, against a static batch of `transformers`."""
        prompts, peer = prompts_of(self.engine, [64] * 16), peer_model(self.path)
        bfloat16, int8 = made(self.engine, "bfloat16"), made(self.engine, "int8")
        figures = in_turns(
            self.options.turns,
            bfloat16=lambda: decode_rate(bfloat16, prompts, 60),
            int8=lambda: decode_rate(int8, prompts, 60),
            transformers=lambda: peer_rate(peer, prompts, 60),
        )
        return {
            **figures,
            "ratio bfloat16": figures["bfloat16"] / figures["transformers"],
            "ratio int8": figures["int8"] / figures["transformers"],
            "roofline bfloat16": self._roofline(16, 94, "bfloat16"),
            "roofline int8": self._roofline(16, 94, "int8"),
        }

    def mixed_16(self) -> dict[str, float]:
        """32 requests of 8 to 120 new tokens, 16 at a time: continuous, against static batches."""
        lengths = [8 + 112 * (number * 7 % 32) // 31 for number in range(32)]
        prompts = prompts_of(self.engine, [32 + 3 * number for number in range(32)])
        peer, requests = peer_model(self.path), list(zip(prompts, lengths, strict=True))
        bfloat16, int8 = made(self.engine, "bfloat16"), made(self.engine, "int8")

        def static() -> float:
            start = time.perf_counter()
            for first in (0, 16):
                peer_rate(peer, prompts[first : first + 16], max(lengths[first : first + 16]))
            return time.perf_counter() - start

        figures = in_turns(
            max(1, self.options.turns // 2),
            bfloat16=lambda: sum(lengths) / finish(bfloat16, requests),
            int8=lambda: sum(lengths) / finish(int8, requests),
            transformers=lambda: sum(lengths) / static(),
        )
        ratios = {
            f"ratio {name}": figures[name] / figures["transformers"]
            for name in ("bfloat16", "int8")
        }
        return {**figures, **ratios}

    def shared_prompt_64(self) -> dict[str, float]:
        """64 requests with one system prompt of 256 tokens: all of the engine, with room for all at
        once, against the same engine in static batches of 16 without the prefix cache. Whole run,
        prompts included.
        """
        system, *own = prompts_of(self.engine, [256] + [24 + number for number in range(64)])
        lengths = [8 + 88 * (number * 11 % 64) // 63 for number in range(64)]
        requests = [(system + ids, new) for ids, new in zip(own, lengths, strict=True)]
        plain = made(self.engine, "int8")

        def continuous() -> float:
            every = made(self.engine, "int8", prefix_caching=True, max_running=64)
            return finish(every, requests)

        def static() -> float:
            groups = [requests[first : first + 16] for first in range(0, 64, 16)]
            return sum(finish(plain, static_group(group)) for group in groups)

        figures = in_turns(max(1, self.options.turns // 2), continuous=continuous, static=static)
        return {**figures, "ratio": figures["static"] / figures["continuous"]}

    def served_64(self) -> dict[str, float]:
        """The same kind of load over HTTP by `lm bench serve`, output tokens per second, against
        `transformers serve` (pip install 'transformers[serving]').
        """
        figures = serve_rates(self.path, self.options.peer_requests)
        return {**figures, "ratio": figures["ours"] / figures["transformers"]}

    def prefix(self) -> dict[str, float]:
        """Seconds to the first token of a prompt whose first 1,000 tokens were seen before."""
        beginning, *ends = prompts_of(self.engine, [1000] + [20] * (2 * self.options.turns + 4))
        cached = made(self.engine, "bfloat16", prefix_caching=True)
        without = made(self.engine, "bfloat16")
        finish(cached, [(beginning + ends.pop(), 1)])
        figures = in_turns(
            self.options.turns,
            cached=lambda: finish(cached, [(beginning + ends.pop(), 1)]),
            without=lambda: finish(without, [(beginning + ends.pop(), 1)]),
        )
        return {**figures, "ratio": figures["without"] / figures["cached"]}

    def speculation(self) -> dict[str, float]:
        """Drafts from the text itself, one request: a file that is written a second time, an edit
        of it and a summary of a page, both asked for in a chat, and free text.
        """
        code = (ROOT / "inference" / "kv_cache.py").read_text(encoding="utf-8")[-1500:]
        edit = f"Write this Python code again, without comments.\n\n```python\n{code}\n```"
        page = (ROOT / "docs" / "one_dial.md").read_text(encoding="utf-8")[:2500]
        summary = f"Summarize this text, with quotations.\n\n{page}"
        story = "Write a story about a lighthouse keeper who finds a letter in a bottle."
        prompts = {"copy": self.engine.text_ids(f"{code}\n\n\n{code[:300]}")}
        for name, question in {"edit": edit, "summary": summary, "free": story}.items():
            prompts[name] = self.engine.chat_ids([{"role": "user", "content": question}])
        figures: dict[str, float] = {}
        for name, prompt in prompts.items():
            plain = made(self.engine, "bfloat16")
            drafts = made(self.engine, "bfloat16", num_drafts=self.options.drafts)
            both = in_turns(
                self.options.turns,
                plain=lambda p=prompt, b=plain: decode_rate(b, [p], 200),
                drafts=lambda p=prompt, b=drafts: decode_rate(b, [p], 200),
            )
            figures |= {f"{name} {side}": figure for side, figure in both.items()}
            figures[f"{name} ratio"] = both["drafts"] / both["plain"]
        return figures

    def cache_types(self) -> dict[str, float]:
        """int8 weights and 2,000 tokens in the cache, in bfloat16 and in int8: tokens per second,
        and the bits per byte of these tokens (the project's documentation).
        """
        [prompt] = prompts_of(self.engine, [2000])
        sides = {name: made(self.engine, "int8", cache=name) for name in ("bfloat16", "int8")}
        figures = in_turns(
            self.options.turns,
            **{name: lambda b=batch: decode_rate(b, [prompt], 60) for name, batch in sides.items()},
        )
        for name, batch in sides.items():
            figures[f"{name} bits per byte"] = self._bits_per_byte(batch, prompt)
        return {**figures, "ratio": figures["int8"] / figures["bfloat16"]}

    def _bits_per_byte(self, batch: BatchEngine, ids: list[int]) -> float:
        """Return the bits per byte of a text, all but its first token, with the engine's cache."""
        blocks = list(range(-(-len(ids) // batch.settings.block_size)))
        hidden = batch.forward.hidden([ChunkRows(0, ids, 0, blocks)])
        nats = 0.0
        for start in range(0, len(ids) - 1, 256):
            rows = batch.forward.logits(hidden[start : start + 256]).log_softmax(-1)
            nats -= sum(row[i].item() for row, i in zip(rows, ids[start + 1 :], strict=False))
        return nats / math.log(2) / len(self.engine.tokenizer.decode(ids[1:]).encode())

    def cache_memory(self) -> dict[str, float]:
        """Bytes of the cache at the peak of 16 mixed requests: blocks, against room for the
        longest one for all.
        """
        prompts = prompts_of(self.engine, [32 + 60 * number for number in range(16)])
        lengths = [20 + (number * 37) % 180 for number in range(16)]
        batch = made(self.engine, "bfloat16", max_tokens_per_step=4096)
        for number, (prompt, new) in enumerate(zip(prompts, lengths, strict=True)):
            submit(batch, f"{number}", prompt, new)
        peak = 0
        while batch.has_work:
            batch.step()
            peak = max(peak, batch.pool.num_blocks - batch.pool.num_available)
        size = batch.settings.block_size
        longest = max(len(prompt) + new for prompt, new in zip(prompts, lengths, strict=True))
        one_block = memory_for_cache(self.engine.model.config, [size], size).block_bytes
        pages, padded = peak * one_block, 16 * longest / size * one_block
        return {"pages": pages, "longest for all": padded, "ratio": pages / padded}

    def long_prompt_arrives(self) -> dict[str, float]:
        """Longest gap between two tokens of a running answer while a prompt of 2,000 tokens comes
        in, and the seconds to that prompt's first token: in chunks of 256 tokens, and whole.
        """
        short, long = prompts_of(self.engine, [64, 2000])
        figures: dict[str, float] = {}
        for name, budget in {"chunked": 256, "whole": 4096}.items():
            batch = made(self.engine, "bfloat16", max_tokens_per_step=budget)
            gaps, firsts = [], []
            for turn in range(3):
                submit(batch, "short", short, 40)
                for _ in range(10):
                    batch.step()
                submit(batch, "long", long, 1)
                start = last = time.perf_counter()
                longest = first = 0.0
                while batch.has_work:
                    names = {event.request_id for event in batch.step()}
                    now = time.perf_counter()
                    if "short" in names:
                        longest, last = max(longest, now - last), now
                    if "long" in names:
                        first = now - start
                if turn:
                    gaps.append(longest)
                    firsts.append(first)
            figures |= {f"{name} gap": min(gaps), f"{name} first token": min(firsts)}
        return figures

    def first_token(self) -> dict[str, float]:
        """Seconds from the start of `lm generate` to its end at the first token."""
        target = self.options.demo_model or self.path
        command = [sys.executable, "-m", "lm_course", "generate", "The", "--model", str(target)]
        command += ["--max-new-tokens", "1"]

        def run() -> float:
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            return time.perf_counter() - start

        return in_turns(3, seconds=run)
