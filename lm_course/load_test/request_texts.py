"""The texts of requests: words of a chosen number of tokens, or lines of a file.

A code word, which only one request knows, shows whether the answers of a server get mixed up.

What this leaves out: the exact number of tokens, which only the server's tokenizer knows. The
server is asked once how many tokens a word has (server_check.py), and each answer says how many its
prompt had.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.user_error import UserError

# One token each in most vocabularies of English.
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member "
    "law car city"
)
WORD_LIST = WORDS.split(" ")
TASK = "Write a long story with these words:"
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
CODE_WORD = re.compile(r"(?=(QX[A-Z]{8}))", re.IGNORECASE)  # of any place, also overlapping


@dataclass(frozen=True)
class WordCost:
    """How many tokens the server counts.

    Attributes:
        per_word: tokens of one of `WORD_LIST`.
        around: tokens of everything else: the chat template, the task, the code word.
    """

    per_word: float = 1.3
    around: float = 0.0

    def words_for(self, tokens: int) -> int:
        """Return how many words make a prompt of so many tokens; at least 1."""
        return max(1, round((tokens - self.around) / self.per_word))


@dataclass(frozen=True)
class PromptLine:
    """One line of a file of prompts: a text to continue, or a conversation."""

    prompt: str | None
    messages: tuple[dict[str, Any], ...] | None
    max_tokens: int | None


def draw_words(generator: np.random.Generator, count: int) -> str:
    """Return so many words, drawn one by one."""
    return " ".join(WORD_LIST[place] for place in generator.integers(0, len(WORD_LIST), count))


def draw_code_word(generator: np.random.Generator) -> str:
    """Return a word that nobody else has: ten letters, of which eight are drawn."""
    return "QX" + "".join(
        CODE_LETTERS[place] for place in generator.integers(0, len(CODE_LETTERS), 8)
    )


def code_words_in(text: str) -> set[str]:
    """Return everything in a text that could be a code word, in capitals."""
    return {found.upper() for found in CODE_WORD.findall(text)}


def with_code_word(text: str, code_word: str | None) -> str:
    """Return the text, and the question for the code word if there is one."""
    if code_word is None:
        return text
    return f"{text}\n\nThe code word is {code_word}. Repeat the code word: what is it?"


def body_of(
    text: str, shared: str, is_chat: bool, line: PromptLine | None, code_word: str | None
) -> dict[str, Any]:
    """Return the part of a request that says what is asked.

    Args:
        text: words of this request; not used if there is a line.
        shared: the beginning that all requests share; may be empty.
        is_chat: whether the words are sent as a conversation.
        line: of a file of prompts; it decides itself what it is.
        code_word: that the answer should repeat.
    """
    if line is None:
        asked = with_code_word(f"{TASK} {text}", code_word)
        messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
    elif line.messages is not None:
        is_chat = True
        last = line.messages[-1]
        messages = [*line.messages[:-1], last]
        if code_word is not None:
            messages[-1] = {**last, "content": with_code_word(str(last["content"]), code_word)}
    else:
        is_chat, asked = False, with_code_word(line.prompt or "", code_word)
    if not is_chat:
        return {"prompt": f"{shared}\n\n{asked}" if shared else asked}
    if shared:
        messages = [{"role": "system", "content": shared}, *messages]
    return {"messages": messages}


def read_prompts(path: Path) -> list[PromptLine]:
    """Read a file with one JSON object in each line: "prompt" or "messages", and "max_tokens" if
    the answer has a limit of its own.

    Raises ValueError that names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--prompts {path}: not a text in UTF-8") from None
    found = [
        _line(each, f"--prompts {path}, line {number}")
        for number, each in enumerate(text.split("\n"), start=1)
        if each.strip()
    ]
    if not found:
        raise UserError(f"--prompts {path}: no prompts; expected one JSON object in each line")
    return found


def _line(text: str, where: str) -> PromptLine:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise UserError(f'{where}: expected an object with either "prompt" or "messages"')
    if unknown := sorted(row.keys() - {"prompt", "messages", "max_tokens"}):
        raise UserError(f'{where}: unknown key {unknown[0]!r}; a line has "max_tokens" besides')
    limit = row.get("max_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UserError(f"{where}: max_tokens {limit!r}: expected a whole number above 0")
    prompt, messages = row.get("prompt"), row.get("messages")
    if "prompt" in row and (not isinstance(prompt, str) or not prompt):
        raise UserError(f"{where}: prompt: expected a text that is not empty")
    if "messages" in row and not _are_messages(messages):
        raise UserError(f'{where}: messages: expected objects with "role" and a text as "content"')
    return PromptLine(prompt, None if messages is None else tuple(messages), limit)


def _are_messages(found: Any) -> bool:
    return (
        isinstance(found, list)
        and bool(found)
        and all(
            isinstance(each, dict)
            and isinstance(each.get("role"), str)
            and isinstance(each.get("content"), str)
            for each in found
        )
    )
