"""Each model is asked for a whole text, and itself finds out which of its tokens are new to it."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

import torch


def prompt_lookup(token_ids, max_ngram, num_drafts, min_ngram=1):
    """Slices are compared, the longest first."""
    if min_ngram < 1 or min_ngram > max_ngram:
        raise ValueError(f"n-grams from {min_ngram} to {max_ngram} tokens")
    if num_drafts < 0:
        raise ValueError(f"{num_drafts} drafts")
    ids = list(token_ids)
    for size in range(min(max_ngram, len(ids) - 1), min_ngram - 1, -1):
        for end in range(len(ids) - 1, size - 1, -1):
            if ids[end - size : end] == ids[-size:]:
                return ids[end : end + num_drafts]
    return []


def residual(target, draft):
    lacking = torch.where(target > draft, target.double() - draft.double(), 0.0)
    return (lacking / lacking.sum()).to(target.dtype) if lacking.any() else target.clone()


def accept_drafts(draft_ids, draft_probabilities, target_probabilities, numbers):
    """Place by place, until a draft is rejected or none is left."""
    if len(draft_ids) == 0:
        return [pick(target_probabilities[0], numbers[0][1])]
    first, p, q = draft_ids[0], target_probabilities[0], draft_probabilities[0]
    if numbers[0][0] >= p[first].item() / q[first].item():
        return [pick(residual(p, q), numbers[0][1])]
    rest = draft_ids[1:], draft_probabilities[1:], target_probabilities[1:], numbers[1:]
    return [first, *accept_drafts(*rest)]


def accept_lookup(draft_ids, target_probabilities, numbers):
    drawn = [pick(row, number) for row, number in zip(target_probabilities, numbers, strict=True)]
    pairs = zip(drawn, draft_ids, strict=False)
    right = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    return drawn if right is None else drawn[: right + 1]


def speculative_generate(
    model,
    draft_model,
    prompt_ids,
    settings,
    max_new_tokens,
    stop_ids=(),
    num_drafts=4,
    max_ngram=3,
):
    check_max_new_tokens(max_new_tokens)
    check_prompt_fits(len(prompt_ids), model.config.context_length)
    check_token_ids(torch.tensor(prompt_ids), model.config.vocab_size)
    if num_drafts < 0 or max_ngram < 1:
        raise ValueError(f"{num_drafts} drafts by n-grams of at most {max_ngram} tokens")
    target = Reader(model, prompt_ids, settings)
    if draft_model is None:
        drafting = Lookup(prompt_ids, settings.seed, max_ngram)
    else:
        drafting = Drafting(draft_model, model.config, prompt_ids, settings)
    size = min(max_new_tokens, model.config.context_length - len(prompt_ids) + 1)
    answer, drafts, passes = [], [], 0
    while len(answer) < size:
        rows = target.distributions(answer, drafts)
        passes += 1
        for token in drafting.accepted(drafts, rows, len(answer)):
            if token in stop_ids:
                return answer, passes
            answer.append(token)
        drafts = drafting.drafts(answer, min(num_drafts, size - len(answer) - 1))
    return answer, passes


class Reader:
    """A model with its cache, and the text that is in it."""

    def __init__(self, model, prompt_ids, settings):
        self.model, self.prompt, self.settings = model, list(prompt_ids), settings
        self.cache, self.text = KVCache.for_model(model.config, 1), []

    def distributions(self, answer, drafts):
        """Those behind the answer, behind the first draft, and so on."""
        text = self.prompt + answer + drafts
        known = 0
        for old, new in zip(self.text, text, strict=False):
            if old != new:
                break
            known += 1
        self.cache.truncate(known)
        with torch.no_grad():
            logits = self.model(torch.tensor([text[known:]]), cache=self.cache)[0]
        self.text = text
        rows = enumerate(logits[-len(drafts) - 1 :])
        return [self.distribution(row, answer + drafts[:place]) for place, row in rows]

    def distribution(self, logits, answer):
        penalized = penalize(logits, self.prompt, answer, self.settings)
        return next_token_probabilities(penalized, self.settings)


class Lookup:
    def __init__(self, prompt_ids, seed, max_ngram):
        self.prompt, self.seed, self.max_ngram = list(prompt_ids), seed, max_ngram

    def drafts(self, answer, count):
        return prompt_lookup(self.prompt + answer, self.max_ngram, count) if count > 0 else []

    def accepted(self, drafts, rows, place):
        numbers = [uniform(self.seed, place + i) for i in range(len(rows))]
        return accept_lookup(drafts, rows, numbers)


class Drafting:
    """A draft model, and the distributions of its last drafts."""

    def __init__(self, draft_model, config, prompt_ids, settings):
        own = draft_model.config
        if own.vocab_size != config.vocab_size:
            raise ValueError(f"vocabularies of {own.vocab_size} and {config.vocab_size}")
        if own.context_length < config.context_length:
            raise ValueError(f"contexts of {own.context_length} and {config.context_length}")
        self.reader, self.rows, self.seed = (
            Reader(draft_model, prompt_ids, settings),
            [],
            settings.seed,
        )

    def drafts(self, answer, count):
        seed, ids, self.rows = seed_of_sample(self.seed, DRAFT_STREAM), [], []
        for place in range(len(answer), len(answer) + count):
            (row,) = self.reader.distributions(answer + ids, [])
            self.rows.append(row)
            ids.append(pick(row, uniform(seed, place)))
        return ids

    def accepted(self, drafts, rows, place):
        seed = seed_of_sample(self.seed, ACCEPT_STREAM)
        places = range(place, place + len(rows))
        numbers = [(uniform(seed, i), uniform(self.seed, i)) for i in places]
        return accept_drafts(drafts, self.rows, rows, numbers)
