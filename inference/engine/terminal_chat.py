"""A conversation in the terminal: read a line, stream the reply, remember both.

`/reset` forgets the conversation; `/quit`, `exit`, `quit`, Ctrl-D or Ctrl-C at the prompt ends it;
Ctrl-C during a reply stops that reply. If a reply fails, only that turn is lost. When the
conversation no longer fits the model's context, its oldest turns are dropped with a notice.

What this leaves out: line editing and history (use the shell's `rlwrap`).
"""

import os
import re
import sys
from collections.abc import Callable

from inference.engine.engine import Engine, Message
from inference.generation import check_max_new_tokens
from inference.sampling import SamplingSettings
from lm_core.user_error import UserError

YOU = "you> "
MODEL = "model> "
THOUGHT, END_OF_THOUGHT = "<think>", "</think>"  # Qwen3's templates drop the text between them, too
LEAVE = ("/quit", "/exit", "quit", "exit")
COMMAND = re.compile(r"/[a-z]+")  # one word, so that a path is not a command
HELP = "Type a message. /reset forgets the conversation; exit, /quit or Ctrl-D ends it.\n"


def write_to_terminal(text: str) -> None:
    """Show `text` at once, without adding a line break."""
    sys.stdout.write(text)
    sys.stdout.flush()


def chat_session(
    engine: Engine,
    sampling: SamplingSettings,
    max_new_tokens: int,
    name: str = "",
    read_line: Callable[[str], str] = input,
    write: Callable[[str], None] = write_to_terminal,
) -> list[Message]:
    """Chat until a word of LEAVE or the end of input, and return the conversation.

    `name` of the model is shown first. `read_line(prompt)` returns one line and raises EOFError at
    the end; `write(text)` shows text without adding a line break. A message that is too long is
    rejected with one line.

    Raises ValueError, before any output, if `max_new_tokens` is below 1, or if the model has no
    chat template, or one that fails.
    """
    check_max_new_tokens(max_new_tokens)
    engine.chat_ids([{"role": "user", "content": "Hello"}])
    messages: list[Message] = []
    num_replies = 0
    write(f"Model: {name}\n{HELP}" if name else HELP)
    while True:
        try:
            line = read_line(YOU).strip()
        except UnicodeDecodeError:
            write("(that line is not UTF-8; set the terminal to UTF-8)\n")
            continue
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return messages
        if line.lower() in LEAVE:
            return messages
        if line == "/reset":
            messages = []
            write("(forgotten)\n")
            continue
        if COMMAND.fullmatch(line):
            write(HELP if line == "/help" else f"({line} is not a command)\n{HELP}")
            continue
        if not line:
            continue
        seed = (sampling.seed + num_replies) % 2**63  # a repeated question may get another answer
        turn_sampling = sampling.model_copy(update={"seed": seed})
        messages = _take_turn(engine, messages, line, turn_sampling, max_new_tokens, write)
        num_replies += 1


def drop_oldest_turns(
    engine: Engine, messages: list[Message], reply_room: int
) -> tuple[list[Message], int]:
    """Drop whole turns from the front until `reply_room` tokens are free; the last message stays.

    Returns the remaining messages and the number of dropped ones. A turn is a user's message and
    its reply, so that the conversation always begins with the user.
    """
    kept = messages
    while len(kept) > 1 and len(engine.chat_ids(kept)) + reply_room > engine.context_length:
        kept = kept[2:]
    return kept, len(messages) - len(kept)


def _take_turn(
    engine: Engine,
    messages: list[Message],
    line: str,
    sampling: SamplingSettings,
    max_new_tokens: int,
    write: Callable[[str], None],
) -> list[Message]:
    """Answer one question, and return the conversation with question and reply.

    If the question is rejected or the reply fails, the conversation is returned unchanged.
    """
    # At most a quarter of the context is reserved, so that a large --max-new-tokens does not drop
    # every earlier turn.
    reply_room = min(max_new_tokens, engine.context_length // 4)
    asked = [*messages, {"role": "user", "content": line}]
    try:
        asked, num_dropped = drop_oldest_turns(engine, asked, reply_room)
        pieces = engine.stream_chat(asked, sampling, max_new_tokens)
    except ValueError as error:
        write(f"({error})\n")
        return messages
    if num_dropped:
        write(f"(the context is full: the oldest {num_dropped} messages were dropped)\n")
    write(MODEL)
    reply = ""
    try:
        for piece in pieces:
            write(piece)
            reply += piece
    except KeyboardInterrupt:
        write(" (stopped)")
    # No error may end the program, because the whole conversation would be lost.
    except Exception as error:
        if os.environ.get("LM_TRACEBACK"):
            raise
        what = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        write(f"\n(this reply failed: {what}; the conversation before it is kept)\n")
        return messages
    write("\n")
    return [*asked, {"role": "assistant", "content": _as_said(engine, reply)}]


def _as_said(engine: Engine, reply: str) -> str:
    """Return the reply as it is remembered, without the model's thoughts before it.

    Some templates open the thought themselves, so that the reply contains only its end. If that end
    is not a token of the model, it is ordinary text.
    """
    thinks = END_OF_THOUGHT in engine.tokenizer.special_tokens
    if thinks or reply.lstrip().startswith(THOUGHT):
        reply = reply.rpartition(END_OF_THOUGHT)[2]
    return reply.strip()
