"""The step `samples`: prompts that the tokenizer cannot encode."""

from types import SimpleNamespace

import pytest

from lm_core.user_error import UserError
from lm_course.model_steps.samples import check_prompts
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer


def test_a_prompt_with_an_unknown_character_is_named():
    tokenizer = CharacterTokenizer({0: b"a", 1: b"b", 2: b" "}, special_tokens={})
    engine = SimpleNamespace(tokenizer=tokenizer)
    check_prompts(engine, ["a b", ""])
    with pytest.raises(
        UserError, match=r"samples.prompts has 'ROMEO'.* \(the text holds 'R'.*--set"
    ):
        check_prompts(engine, ["a", "ROMEO"])
