"""The engine of `lm chat`: texts on the engine for many requests, which keeps its cache.

A conversation is sent again with every message, and only what is new in it is computed: the rest is
in the prefix cache. Tokens come from the compiled forward pass, if it knows the model.

What this leaves out: more than one text at a time.
"""

from collections.abc import Iterator, Sequence

from inference.engine.batch_engine import BatchEngine
from inference.engine.batch_requests import BatchSettings
from inference.engine.engine import Engine
from inference.engine.text_side import TextSide
from inference.sampling import SamplingSettings
from lm_core.user_error import UserError

NAME = "text"


class ChatEngine(Engine):
    """An engine that keeps what it computed for one text, and computes the next one from there.

    Args:
        engine: with the model and its tokenizer.
        settings: of the cache.
    """

    def __init__(self, engine: Engine, settings: BatchSettings) -> None:
        side = TextSide(engine.tokenizer, engine.template, engine.stop_ids, engine.first_id)
        super().__init__(engine.model, engine.tokenizer, side)
        self.batch = BatchEngine(self.model, settings, self.drawable)

    def new_ids(
        self, prompt_ids: Sequence[int], sampling: SamplingSettings, max_new_tokens: int
    ) -> Iterator[int]:
        """Yield the ids that continue a prompt; raise ValueError if it can never fit the cache."""
        self.batch.submit(NAME, prompt_ids, sampling, max_new_tokens, self.stop_ids)
        try:
            while self.batch.has_work:
                for event in self.batch.step():
                    if event.error is not None:
                        raise UserError(event.error)
                    if event.token_id is not None:
                        yield event.token_id
        except (KeyboardInterrupt, Exception):  # in a step: what it had changed is not known
            forward, settings = self.batch.forward, self.batch.settings
            self.batch = BatchEngine(self.model, settings, self.drawable, forward)
            raise
        finally:
            self.batch.abort(NAME)
