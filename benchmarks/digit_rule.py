"""One rule about digits, four models: the downstream effect of `max_digits` in the GPT-4 pattern.

    OMP_NUM_THREADS=1 python benchmarks/digit_rule.py [--prose FILE] [--seeds 0 1 2] [--out FILE]

It takes five minutes per seed, on one thread of a busy machine. For the results, see
tokenizer_bpe/README.md and docs/experiment_log.md (2026-11-21).

The same small model is trained four times per seed, on the same pages in the same order; only the
tokenizer differs, and of the tokenizer only how many digits a word may hold: 1, 2, 3 (GPT-4), or
all of them. Nine pages of ten are sums such as `347 + 85 = 432`, the rest is prose: the docstrings
of this Python's standard library, or a file. Each run sees the same bytes, and therefore not the
same number of tokens: single digits get more computation for the same text.

One pair of operands in twenty, in both orders, and one block of prose in twenty are held out. The
figures are the share of held-out sums with the right answer, digit for digit (greedy decoding), the
nats of the answer with the end of its line, and bits per byte. Sums of bits over whole lines can be
compared between tokenizers. Bits of the digits alone can be compared only roughly: after "12", a
model of single digits pays in the *next* token for knowing that the number has ended, and a model
of whole numbers pays in the number itself.

Prediction, written before the first comparison (2026-11-21), after trials with single digits alone:
one with operands of up to 4 digits (2 % right after 2,600 steps: too hard to compare anything) and
one with up to 3 (88 % after 4,000). Groups are cut from the left: under 2, 347 is "34", "7" and its
ones are in a position where 85 has no token; only single digits are aligned by place. Groups of
three contain every operand here as a whole, but have a thousand values to learn, each seen about a
hundred times. No limit adds only the answers from 1000, each its own rare token. So:

- right answers: 1 digit 88 %, 2 digits 20 %, 3 digits 3 %, no limit 2 %; nats per answer in the
  reverse order, about 0.7, 3.5, 6 and 6.5;
- 2 digits: a sharp drop from operands of two digits (60 % right) to three (10 %); 3 digits and no
  limit: almost no right answers once an operand has three digits;
- prose: at most 3 % apart, the best with 1 digit, whose vocabulary has the most room for words.

What this leaves out: other shares of sums, larger models and longer training (which may learn any
of the four), a learning rate for each rule (2e-3 was chosen in trials with single digits alone),
groups cut from the right (Singh and Strouse, 2024), and tokenizations of numbers other than the
encoder's.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from arithmetic_pages import (
    MOST_DIGITS,
    PROSE_PIECE,
    SUMS_PER_PAGE,
    Sum,
    pages_of_step,
    prose_pieces,
    random_sum,
    standard_library_docstrings,
    sums_page,
)
from torch import Tensor

from inference.generation import generate
from inference.sampling import SamplingSettings
from lm_core.random_state import derived_seed, seed_everything
from lm_core.special_tokens import END_OF_TEXT
from tokenizer_bpe.merge_training import train_bpe_from_counts
from tokenizer_bpe.pretokenization import count_words, gpt4_pattern
from tokenizer_bpe.tokenizer import Tokenizer
from training.engine.fused_loss import fused_token_losses
from training.loss import bits_per_byte
from training.optimizers import AdamW, clip_gradients
from training.schedules import learning_rate_at
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

HERE = Path(__file__).resolve().parent
RULES = {1: "1 digit", 2: "2 digits", 3: "3 digits (GPT-4)", 0: "no limit"}
VOCAB_SIZE = 2048
NUM_TEST_SUMS = 1000
NUM_TEST_PAGES = 250  # of each kind
# In trials with single digits alone, 8 narrow heads learned sums that 2 wide ones did not learn.
MODEL = ModelConfig(
    context_length=4 * PROSE_PIECE + 1,  # enough for any characters: at most 4 bytes each
    d_model=128,
    num_layers=2,
    num_heads=8,
    num_kv_heads=8,
    d_ff=336,
    vocab_size=VOCAB_SIZE,
)


def trained_tokenizer(max_digits: int, pages: list[str]) -> Tokenizer:
    pattern = gpt4_pattern(max_digits)
    counts = count_words(pages, [END_OF_TEXT], pattern)
    vocab, merges = train_bpe_from_counts(counts, VOCAB_SIZE, [END_OF_TEXT])
    return Tokenizer(vocab, merges, [END_OF_TEXT], pattern)


class Encoded(NamedTuple):
    """Texts as a table: END_OF_TEXT, then the tokens, then padding (also END_OF_TEXT)."""

    token_ids: Tensor  # [texts, longest + 1]
    mask: Tensor  # [texts, longest]: True where token_ids[:, 1:] is a token of the text


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Encoded:
    rows = [tokenizer.encode(text) for text in texts]
    end = tokenizer.special_tokens[END_OF_TEXT]
    longest = max(map(len, rows))
    ids = torch.tensor([[end, *row, *[end] * (longest - len(row))] for row in rows])
    return Encoded(ids, torch.arange(longest) < torch.tensor([[len(row)] for row in rows]))


def trained_model(
    tokenizer: Tokenizer, seed: int, prose: Sequence[str], options: argparse.Namespace
) -> tuple[TransformerLM, dict[str, float]]:
    """Return the model after all steps, and counts of its training data."""
    seed_everything(derived_seed(seed, "initial weights"))
    model = TransformerLM(MODEL)
    optimizer = AdamW(model.named_parameters())
    num_tokens = num_bytes = 0
    started = time.perf_counter()
    for step in range(1, options.steps + 1):
        pages = pages_of_step(seed, step, prose)
        ids, mask = encoded(tokenizer, pages)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
            losses = fused_token_losses(model(ids[:, :-1]), ids[:, 1:])
        (losses * mask).sum().div(mask.sum()).backward()
        clip_gradients(model.parameters(), 1.0)
        schedule = {"steps": options.steps, "warmup_steps": options.steps // 10}
        rate = options.learning_rate
        optimizer.step(
            learning_rate_at(step, learning_rate=rate, min_learning_rate=0.0, **schedule)
        )
        optimizer.zero_gradients()
        num_tokens += int(mask.sum())
        num_bytes += sum(len(page.encode()) for page in pages)
    seconds = time.perf_counter() - started
    return model.eval(), {"tokens": num_tokens, "bytes": num_bytes, "seconds": round(seconds, 1)}


def is_digits(tokenizer: Tokenizer) -> Tensor:
    """Return for each id whether the token consists of digits; no token mixes them with other
    characters.
    """
    return torch.tensor([tokenizer.vocab[i].isdigit() for i in range(tokenizer.vocab_size)])


@torch.no_grad()
def page_figures(model: TransformerLM, tokenizer: Tokenizer, pages: list[str]) -> dict[str, float]:
    """Return bits per byte over all bytes, and over the digits alone."""
    digit_tokens = is_digits(tokenizer)
    nats = {True: 0.0, False: 0.0}
    for first in range(0, len(pages), 50):
        ids, mask = encoded(tokenizer, pages[first : first + 50])
        losses = fused_token_losses(model(ids[:, :-1]), ids[:, 1:]).double()
        for kind in nats:
            nats[kind] += float((losses * (mask & (digit_tokens[ids[:, 1:]] == kind))).sum())
    content = "".join(pages).encode()
    num_digits = sum(byte in b"0123456789" for byte in content)
    return {
        "bits_per_byte": bits_per_byte(sum(nats.values()), len(content)),
        # A file of prose may contain no digit; the result is then 0 bits.
        "digits_bits_per_byte": bits_per_byte(nats[True], max(num_digits, 1)),
    }


def batches_of_equal_prompts(
    tokenizer: Tokenizer, sums: Sequence[Sum]
) -> Iterator[tuple[list[Sum], Tensor]]:
    """Yield sums whose prompts have the same number of tokens, and these prompts after
    END_OF_TEXT.
    """
    groups = defaultdict(list)
    for found in sums:
        ids = [tokenizer.special_tokens[END_OF_TEXT], *tokenizer.encode(found.prompt)]
        groups[len(ids)].append((found, ids))
    for group in groups.values():
        yield [found for found, _ in group], torch.tensor([ids for _, ids in group])


def right_answers(model: TransformerLM, tokenizer: Tokenizer, sums: Sequence[Sum]) -> set[Sum]:
    """Return the sums whose greedily decoded answer is right to the end of the line."""
    (newline,) = tokenizer.encode("\n")
    right = set()
    for group, prompts in batches_of_equal_prompts(tokenizer, sums):
        # One token more than the longest answer: a number that does not end is wrong.
        texts = generate(
            model, prompts, SamplingSettings(temperature=0), MOST_DIGITS + 2, [newline]
        )
        for found, ids in zip(group, texts, strict=True):
            if tokenizer.decode(ids) + "\n" == found.answer:
                right.add(found)
    return right


@torch.no_grad()
def nats_per_answer(model: TransformerLM, tokenizer: Tokenizer, sums: Sequence[Sum]) -> float:
    """Return the nats of the answer's digits and the end of its line, after the right prompt."""
    total = 0.0
    for group, prompts in batches_of_equal_prompts(tokenizer, sums):
        ids, mask = encoded(tokenizer, [found.prompt + found.answer for found in group])
        start = prompts.shape[1]
        assert torch.equal(ids[:, :start], prompts), "a token spans prompt and answer"
        losses = fused_token_losses(model(ids[:, :-1]), ids[:, 1:]).double()
        total += float((losses * mask)[:, start - 1 :].sum())
    return total / len(sums)


def sum_figures(model: TransformerLM, tokenizer: Tokenizer, sums: list[Sum]) -> dict[str, Any]:
    right = right_answers(model, tokenizer, sums)
    by_digits: dict[int, list[bool]] = defaultdict(list)
    for found in sums:
        by_digits[len(str(max(found)))].append(found in right)
    return {
        "accuracy": len(right) / len(sums),
        "accuracy_by_digits_of_larger_operand": {
            digits: sum(hits) / len(hits) for digits, hits in sorted(by_digits.items())
        },
        "nats_per_answer": nats_per_answer(model, tokenizer, sums),
    }


class HeldOut(NamedTuple):
    """Sums and pages that no run has read."""

    sums: list[Sum]
    sums_pages: list[str]
    prose_pages: list[str]


def held_out_text(prose: list[str]) -> HeldOut:
    generator = random.Random(derived_seed(0, "held out"))
    sums: dict[Sum, None] = {}
    while len(sums) < NUM_TEST_SUMS:
        sums[random_sum(generator, held_out=True)] = None
    pages = [sums_page(generator, held_out=True) for _ in range(NUM_TEST_PAGES)]
    return HeldOut(list(sums), pages, prose[:NUM_TEST_PAGES])


def tokenizer_figures(tokenizer: Tokenizer, held_out: HeldOut) -> dict[str, float]:
    tokens = [len(tokenizer.encode("".join(pages))) for pages in held_out[1:]]
    num_bytes = [len("".join(pages).encode()) for pages in held_out[1:]]
    return {
        "entries_of_digits": int(is_digits(tokenizer).sum()),
        "tokens_per_sum": tokens[0] / (NUM_TEST_PAGES * SUMS_PER_PAGE),
        "bytes_per_token_of_prose": num_bytes[1] / tokens[1],
    }


def run_figures(
    tokenizer: Tokenizer,
    seed: int,
    prose: Sequence[str],
    held_out: HeldOut,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train once and measure."""
    model, read = trained_model(tokenizer, seed, prose, options)
    everything = held_out.sums_pages + held_out.prose_pages
    return {
        "seed": seed,
        **read,
        **sum_figures(model, tokenizer, held_out.sums),
        "sums": page_figures(model, tokenizer, held_out.sums_pages),
        "prose": page_figures(model, tokenizer, held_out.prose_pages),
        "overall": page_figures(model, tokenizer, everything),
    }


def spread(runs: list[dict[str, Any]], *keys: str | int) -> dict[str, float]:
    """Return mean, minimum and maximum of one figure over the seeds."""
    values = []
    for found in runs:
        for key in keys:
            found = found[key]
        values.append(found)
    figures = {"mean": statistics.mean(values), "low": min(values), "high": max(values)}
    return {name: round(value, 4) for name, value in figures.items()}


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    by_digits = "accuracy_by_digits_of_larger_operand"
    figures = {
        "accuracy": spread(runs, "accuracy"),
        "nats_per_answer": spread(runs, "nats_per_answer"),
    }
    for part in ("overall", "sums", "prose"):
        for name in ("bits_per_byte", "digits_bits_per_byte"):
            figures[f"{part}_{name}"] = spread(runs, part, name)
    for digits in runs[0][by_digits]:
        figures[f"accuracy_{digits}_digits"] = spread(runs, by_digits, digits)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prose", type=Path, help="UTF-8 text in place of the docstrings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", type=int, nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--out", type=Path, default=HERE / "digit_rule_results.json")
    options = parser.parse_args()
    started = time.perf_counter()
    text = options.prose.read_text("utf-8") if options.prose else standard_library_docstrings()
    prose, held_out_prose = prose_pieces(text)
    held_out = held_out_text(held_out_prose)
    # One tokenizer for each rule, from the pages of seed 0: seeds differ in weights and pages.
    pages = [p for step in range(1, options.steps + 1) for p in pages_of_step(0, step, prose)]
    results: dict[str, Any] = {
        "prose": options.prose.name if options.prose else "docstrings of the standard library",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "precision": options.precision,
        "parameters": sum(p.numel() for p in TransformerLM(MODEL).parameters()),
        "model": MODEL.model_dump(),
        "rules": {},
    }
    for max_digits in options.rules:
        tokenizer = trained_tokenizer(max_digits, pages)
        runs = []
        for seed in options.seeds:
            runs.append(run_figures(tokenizer, seed, prose, held_out, options))
            print(f"{RULES[max_digits]}: {json.dumps(runs[-1])}", flush=True)
        results["rules"][RULES[max_digits]] = {
            "max_digits": max_digits,
            "tokenizer": tokenizer_figures(tokenizer, held_out),
            "over_seeds": summary(runs),
            "runs": runs,
        }
    results["minutes"] = round((time.perf_counter() - started) / 60, 1)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
