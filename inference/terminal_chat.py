"""A conversation in the terminal: read a line, stream the reply, remember both.

`/reset` forgets the conversation, `/quit`, Ctrl-D or Ctrl-C at the prompt ends it; Ctrl-C during a
reply stops that reply. When the conversation no longer fits the model's context, its oldest turns
are dropped, and said to be. Left out: line editing and history (the shell's `rlwrap` gives them).
"""

import sys
from collections.abc import Callable

from inference.engine import Engine, Message
from inference.sampling import SamplingSettings

YOU = "you> "
MODEL = "model> "
END_OF_THOUGHT = "</think>"  # Qwen3's templates drop what is before it, too
HELP = "Type a message. /reset forgets the conversation, /quit ends it.\n"


def write_to_terminal(text: str) -> None:
    """Show `text` at once, without a line break of its own."""
    sys.stdout.write(text)
    sys.stdout.flush()


def chat_session(
    engine: Engine,
    sampling: SamplingSettings,
    max_new_tokens: int,
    read_line: Callable[[str], str] = input,
    write: Callable[[str], None] = write_to_terminal,
) -> list[Message]:
    """Talk until /quit or the end of input; returns the conversation as it stood then.

    `read_line(prompt)` gives one line and raises EOFError at the end; `write(text)` shows text
    without adding a line break. A message that is too long is refused with one line, not a crash.
    """
    messages: list[Message] = []
    num_replies = 0
    write(HELP)
    while True:
        try:
            line = read_line(YOU).strip()
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return messages
        if line == "/quit":
            return messages
        if line == "/reset":
            messages = []
            write("(forgotten)\n")
            continue
        if not line:
            continue
        seed = (sampling.seed + num_replies) % 2**63  # the same question twice may get two answers
        turn_sampling = sampling.model_copy(update={"seed": seed})
        messages = _take_turn(engine, messages, line, turn_sampling, max_new_tokens, write)
        num_replies += 1


def drop_oldest_turns(
    engine: Engine, messages: list[Message], reply_room: int
) -> tuple[list[Message], int]:
    """Drop whole turns from the front until `reply_room` tokens are free; the last message stays.

    Returns what is left and how many messages went. A turn is a user's message and its reply, so
    that the conversation always begins with the user.
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
    """One question and its reply; returns the conversation with both, or without if refused."""
    # A quarter of the context at least stays free: a long --max-new-tokens must not cost the memory
    # of every turn before.
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
    write("\n")
    return [*asked, {"role": "assistant", "content": _as_said(engine, reply)}]


def _as_said(engine: Engine, reply: str) -> str:
    """The reply as it is remembered: without what the model thought aloud first, and up to a
    special token that it spells letter by letter. No later conversation could be encoded with one
    inside a message.
    """
    reply = reply.rpartition(END_OF_THOUGHT)[2]
    for token in engine.tokenizer.special_tokens:
        reply = reply.split(token)[0]
    return reply.strip()
