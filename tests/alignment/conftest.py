"""A pretrained checkpoint of a tiny model, a tokenizer of bytes, synthetic tasks; one thread."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.random_state import seed_everything
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.tokenizer import Tokenizer
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import load_model, to_hugging_face


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    vocab = dict(enumerate([bytes([byte]) for byte in range(256)]))
    return Tokenizer(vocab, [], SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def pretrained(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    seed_everything(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        d_model=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        d_ff=64,
    )
    tensors, described = to_hugging_face(TransformerLM(config), {})
    folder = tmp_path_factory.mktemp("pretrained") / "step_000000"
    write_checkpoint(folder, tensors, described, {}, None)
    return folder


@pytest.fixture(scope="session")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write questions "q0" ... whose right answer is the digit in words; the wrong one is another
    digit.
    """
    folder = tmp_path_factory.mktemp("instructions")
    words = ["zero", "one", "two", "three", "four", "five"]
    questions, pairs = [], []
    for number in range(120):
        digit, other = number % 6, (number * 7 + 1 + number // 6) % 6
        other = other if other != digit else (digit + 1) % 6
        asked = {"role": "user", "content": f"q{digit} {number // 6}"}
        answer = {"role": "assistant", "content": words[digit]}
        questions.append({"id": str(number), "messages": [asked, answer]})
        pair = {"id": str(number), "prompt": [asked]}
        pairs.append({**pair, "chosen": words[digit], "rejected": words[other]})
    files = {
        "sft_train": questions[:96],
        "sft_heldout": questions[96:],
        "preference_train": pairs[:96],
        "preference_heldout": pairs[96:],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def model(pretrained: Path) -> TransformerLM:
    return load_model(pretrained)


@pytest.fixture
def alphabets(tmp_path: Path) -> Path:
    """Write questions "Q<number>?"; right answers consist of a, b and c, wrong ones of x, y and
    z.
    """
    folder = tmp_path / "alphabets"
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)

    def word(letters: str) -> str:
        size = int(torch.randint(2, 9, (), generator=generator))
        picks = torch.randint(0, 3, (size,), generator=generator).tolist()
        return "".join(letters[pick] for pick in picks)

    for part, count in (("train", 64), ("heldout", 32)):
        sft, preferences = [], []
        for number in range(count):
            prompt = [{"role": "user", "content": f"Q{number}?"}]
            answer = {"role": "assistant", "content": word("abc")}
            sft.append({"id": str(number), "messages": [*prompt, answer]})
            pair = {"chosen": word("abc"), "rejected": word("xyz")}
            preferences.append({"id": str(number), "prompt": prompt, **pair})
        for name, rows in (("sft", sft), ("preference", preferences)):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}_{part}.jsonl").write_text(lines)
    return folder
