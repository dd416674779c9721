"""a3_data.2: the language of a text."""

import pytest

pytestmark = pytest.mark.task("a3_data.2")
MODULE = "data_pipeline.language_id"
ENGLISH = "The committee met on Tuesday to discuss the new rules for the use of public parks."
GERMAN = "Der Ausschuss traf sich am Dienstag, um über die neuen Regeln für Parks zu sprechen."
KOREAN = "위원회는 화요일에 모여 공원 이용에 관한 새로운 규칙을 논의하였다."


class Model:
    """A model that remembers what it read, and answers what it is told."""

    def __init__(self, *answers):
        self.answers = answers
        self.lines = []

    def predict(self, line, *_, **__):
        if "\n" in line:
            raise ValueError("predict processes one line at a time (remove '\\n')")
        self.lines.append(line)
        return tuple(label for label, _ in self.answers), [share for _, share in self.answers]


def with_model(module, model):
    identifier = module.LanguageIdentifier.__new__(module.LanguageIdentifier)
    identifier.model = model
    return identifier


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (GERMAN, "de"), (KOREAN, "ko")])
def test_real_texts(implementation, a3_data, text, code):
    module = implementation(MODULE)
    got = module.LanguageIdentifier(module.language_model_path()).identify(text)
    causes = {"remove the prefix __label__ from the label": f"__label__{code}"}
    a3_data.expect(got.code, code, f"the language of {text!r}", causes)
    a3_data.true(
        0.5 < got.confidence <= 1,
        f"the confidence for {text!r} is {got.confidence!r}, not between 0.5 and 1",
    )


def test_a_text_of_several_lines(implementation, a3_data):
    model = Model(("__label__en", 0.75))
    text = " \n a\tb \r\n\n c\u3000d\n"
    got = with_model(implementation(MODULE), model).identify(text)
    a3_data.expect((got.code, got.confidence), ("en", 0.75), "the answer")
    causes = {
        "line breaks become spaces; without them, words run together": ["abcd"],
        "every run of white space becomes one space": lambda lines: "  " in lines[0],
        "white space at both ends is removed": lambda lines: lines[0] != lines[0].strip(),
    }
    a3_data.expect(model.lines, ["a b c d"], "the lines that the model was given", causes)


@pytest.mark.parametrize("code", ["ceb", "als", "el", "zh"])
def test_codes_of_two_and_three_letters(implementation, a3_data, code):
    model = Model((f"__label__{code}", 0.5))
    got = with_model(implementation(MODULE), model).identify("some words")
    causes = {
        "a code may have three letters: remove the prefix, and keep all behind it": code[-2:],
        "remove the prefix __label__ as a whole: str.strip removes its letters one by one": (
            lambda found: found != code and found in code
        ),
    }
    a3_data.expect(got.code, code, f"the code of the label '__label__{code}'", causes)


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\u3000"])
def test_a_text_without_words(implementation, a3_data, text):
    model = Model(("__label__en", 0.125))
    got = with_model(implementation(MODULE), model).identify(text)
    causes = {'without words there is no language to guess: "" with 0.0': ("en", 0.125)}
    a3_data.expect((got.code, got.confidence), ("", 0.0), f"identify({text!r})", causes)


def test_a_probability_above_one(implementation, a3_data):
    model = Model(("__label__en", 1.00003), ("__label__de", 0.00001))
    got = with_model(implementation(MODULE), model).identify("yes")
    causes = {"a probability is at most 1: the model's sum in float32 can exceed it": 1.00003}
    a3_data.expect(got.confidence, 1.0, "the confidence for a probability of 1.00003", causes)


def test_only_the_beginning_is_read(implementation, a3_data):
    model = Model(("__label__en", 0.5))
    identifier = with_model(implementation(MODULE), model)
    identifier.identify("ab cd ef", 4)
    identifier.identify("x" * 20_001)
    identifier.identify("     words", 5)
    causes = {
        "cut the text to max_characters characters before anything else": lambda lines: (
            lines[0] == "ab cd ef" or "words" in lines
        ),
        "the first max_characters characters have no word, so the model is not asked": (
            lambda lines: len(lines) == 3
        ),
        "the default is 20,000 characters": lambda lines: len(lines[1]) != 20_000,
    }
    expected = ["ab c", "x" * 20_000]
    a3_data.expect(model.lines, expected, "the lines that the model was given", causes)


@pytest.mark.parametrize(
    ("code", "confidence", "expected"),
    [
        ("en", 0.9, None),
        ("en", 0.4, None),
        ("en", 0.39, "uncertain language"),
        ("ko", 0.4, None),
        ("de", 0.99, "other language"),
        ("de", 0.1, "other language"),
        ("", 0.0, "other language"),
    ],
)
def test_the_rule(implementation, a3_data, code, confidence, expected):
    module = implementation(MODULE)
    settings = module.LanguageSettings(languages=["en", "ko"], min_confidence=0.4)
    got = module.failed_language_rule(module.Language(code, confidence), settings)
    causes = {
        "return None for a text that is kept": lambda found: expected is None and found == "",
        "a confidence of exactly min_confidence is enough": lambda _: confidence == 0.4,
        "another language is dropped as such, however uncertain": (
            lambda found: found == "uncertain language"
        ),
    }
    a3_data.expect(got, expected, f"failed_language_rule of {code!r} with {confidence}", causes)
