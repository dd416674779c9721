"""The special tokens of every stage: the end of a document, and the start and end of a chat
message.

ChatML (OpenAI, 2023) writes a conversation as `<|im_start|>role\\ncontent<|im_end|>\\n`. The path
from raw pages to a chat needs only three special tokens; padding reuses END_OF_TEXT, under a loss
mask.
"""

END_OF_TEXT = "<|endoftext|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"

SPECIAL_TOKENS: tuple[str, ...] = (END_OF_TEXT, MESSAGE_START, MESSAGE_END)
