"""The step `samples`: prompts that the tokenizer cannot encode."""

from types import SimpleNamespace

import pytest

from lm_core.user_error import UserError
from lm_course.model_steps import samples
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer

TOKENIZER = CharacterTokenizer({0: b"a", 1: b"b", 2: b" "}, special_tokens={})
WORDS = r"samples.prompts has 'ROMEO'.* \(the text holds 'R'.*--set"


def test_a_prompt_with_an_unknown_character_is_named():
    engine = SimpleNamespace(tokenizer=TOKENIZER)
    samples.check_prompts(engine, ["a b", ""])
    with pytest.raises(UserError, match=WORDS):
        samples.check_prompts(engine, ["a", "ROMEO"])


def test_the_step_checks_its_prompts_before_it_writes(monkeypatch):
    engine = SimpleNamespace(tokenizer=TOKENIZER)
    monkeypatch.setattr(samples.Engine, "from_checkpoint", lambda _: engine)
    monkeypatch.setattr(samples, "latest_checkpoint", lambda folder: folder)
    context = SimpleNamespace(
        inputs={},
        input=lambda name: name,
        output=lambda name: name,
        settings=SimpleNamespace(prompts=["ROMEO"]),
    )
    with pytest.raises(UserError, match=WORDS):
        samples.sample(context)
