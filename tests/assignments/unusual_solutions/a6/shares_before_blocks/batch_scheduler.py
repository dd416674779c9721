"""Decisions in dictionaries of requests: who stays is known before any block is given back."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from collections import Counter


class Scheduler:
    def __init__(self, pool, settings, context_length, model_key=b""):
        self.pool, self.settings = pool, settings
        self.context_length, self.model_key = context_length, model_key
        self.waiting, self.running = [], []

    @property
    def has_work(self):
        return len(self.waiting) + len(self.running) > 0

    def alive(self):
        return {request.id: request for request in [*self.running, *self.waiting]}

    def add(self, request):
        size, limit = len(request.prompt_ids), request.max_new_tokens
        places = self.pool.num_blocks * self.pool.block_size
        if request.id in self.alive():
            raise ValueError(f"the id {request.id} is in use")
        if size not in range(1, self.context_length + 1):
            raise ValueError(f"a prompt of {size} tokens, a context of {self.context_length}")
        if limit <= 0:
            raise ValueError(f"a limit of {limit} tokens")
        if min(size - 1 + limit, self.context_length) > places:
            raise ValueError(f"{size} and {limit} tokens, but only {places} places")
        self.waiting.append(request)

    def shares(self, requests):
        """The tokens of each in the next step, and what is left of the budget."""
        left, shares = self.settings.max_tokens_per_step, {}
        for decodes in (True, False):
            for request in requests:
                if (request.num_to_compute == 1) == decodes and left:
                    shares[request] = min(left, request.num_to_compute)
                    left -= shares[request]
        return shares, left

    def schedule(self):
        preempted, copies = self.make_room(), []
        shares, left = self.shares(self.running)
        for request, count in shares.items():
            copies += reserve(self.pool, request.table, count)
        while left and not preempted and (request := self.admitted()):
            shares[request] = min(left, request.num_to_compute)
            copies += reserve(self.pool, request.table, shares[request])
            left -= shares[request]
        chunks = [
            Chunk(each, each.num_computed, count, count == each.num_to_compute)
            for each, count in shares.items()
        ]
        return Step(chunks, copies, preempted)

    def keys(self, request):
        return block_keys(request.token_ids, self.pool.block_size, self.model_key)

    def admitted(self):
        if len(self.running) == self.settings.max_running or not self.waiting:
            return None
        request, ids, table = self.waiting[0], self.waiting[0].token_ids, BlockTable()
        if self.settings.prefix_caching:
            table = take_cached_prefix(self.pool, ids, self.keys(request))
        cached = table.num_tokens
        if blocks_needed(self.pool, table, len(ids) - cached) > self.pool.num_available:
            release_all(self.pool, table)
            return None
        request.table, request.num_computed, request.state = table, cached, RequestState.RUNNING
        self.running.append(self.waiting.pop(0))
        return request

    def make_room(self):
        """The longest beginning of the running requests that fits once the others have left."""
        kept = len(self.running)
        while kept and self.wanted(kept) > self.available_without(self.running[kept:]):
            kept -= 1
        leaving = self.running[kept:]
        self.running, self.waiting = self.running[:kept], leaving + self.waiting
        for request in leaving[::-1]:
            release_all(self.pool, request.table)
            request.num_computed, request.state = 0, RequestState.WAITING
            request.num_preemptions += 1
        return leaving[::-1]

    def wanted(self, kept):
        shares, _ = self.shares(self.running[:kept])
        return sum(blocks_needed(self.pool, each.table, count) for each, count in shares.items())

    def available_without(self, requests):
        held = Counter(block for request in requests for block in request.table.blocks)
        freed = (self.pool.references(block) == times for block, times in held.items())
        return self.pool.num_available + sum(freed)

    def finish_step(self, step, sampled):
        present = [chunk for chunk in step.chunks if chunk.request in self.running]
        reasons = {}
        for chunk in present:
            request = chunk.request
            before, request.num_computed = request.num_computed, chunk.first + chunk.count
            full_before, full = (n // self.pool.block_size for n in (before, request.num_computed))
            if self.settings.prefix_caching and full > full_before:
                keys = self.keys(request)
                record_full_blocks(self.pool, request.table, keys, request.num_computed)
            if chunk.samples and (reason := self.answered(request, sampled[request.id])):
                reasons[request] = reason
                self.end(request, reason)
        return list(reasons)

    def answered(self, request, token):
        if token in request.stop_ids:
            return FinishReason.STOP
        request.answer_ids = [*request.answer_ids, token]
        left = request.max_new_tokens - len(request.answer_ids)
        room = self.context_length + 1 - len(request.token_ids)
        return None if left and room else FinishReason.LENGTH

    def end(self, request, reason):
        release_all(self.pool, request.table)
        request.state, request.finish_reason = RequestState.FINISHED, reason
        self.running = [each for each in self.running if each is not request]
        self.waiting = [each for each in self.waiting if each is not request]

    def abort(self, request_id):
        request = self.alive().get(request_id)
        if request is not None:
            self.end(request, FinishReason.ABORT)
        return request is not None
