"""Real inputs in ../shared/data, beside the checkout. Tests that need them are skipped on a machine
without them; `test_shared_data.py` says if a name is wrong on a machine that has them.
"""

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SHARED_DATA = CHECKOUT.parent / "shared" / "data"
REAL_CRAWL = SHARED_DATA / "warc" / "iana.warc.gz"
CRAWLS = sorted((SHARED_DATA / "warc").glob("*.warc.gz"))
GPT2_VOCABULARY = SHARED_DATA / "gpt2"
SHAKESPEARE = SHARED_DATA / "shakespeare" / "input.txt"
SCALING_RUNS = SHARED_DATA / "scaling"

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="needs the real inputs in ../shared/data"
)
