"""Windows by one table of places; orders by sorting hashes; batches cut out of whole epochs."""

import hashlib

import numpy as np
import torch


def random_windows(tokens, batch_size, context_length, device, generator=None):
    number = len(tokens)
    if number <= context_length:
        raise ValueError(f"{number} tokens, but a window and its target need {context_length + 1}")
    places = torch.randint(0, number - context_length, (batch_size, 1), generator=generator)
    places = places + torch.arange(context_length + 1)
    if isinstance(tokens, torch.Tensor):
        windows = tokens[places].long()
    else:
        windows = torch.tensor(tokens[places.numpy()].astype("<i8"))
    return tuple(windows[:, k : k + context_length].clone().to(device) for k in (0, 1))


def epoch_order(num_items, seed, epoch):
    stream = hashlib.shake_256(f"{seed}, {epoch}".encode()).digest(8 * num_items)
    return np.frombuffer(stream, dtype="<u8").argsort(kind="stable").astype(np.int64)


class EpochSampler:
    def __init__(self, num_items, batch_size, seed):
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.kept = {}

    def indices_at(self, step):
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(first // self.num_items, -(-end // self.num_items))
        self.kept = {
            epoch: self.kept[epoch]
            if epoch in self.kept
            else epoch_order(self.num_items, self.seed, epoch)
            for epoch in epochs
        }
        items = np.concatenate([self.kept[epoch] for epoch in epochs])
        skipped = first - epochs[0] * self.num_items
        return items[skipped : skipped + self.batch_size].tolist()
