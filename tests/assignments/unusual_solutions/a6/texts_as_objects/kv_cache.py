"""A tensor for each layer: keys and values on its first axis, positions before heads."""

import torch


class KVCache:
    def __init__(
        self,
        num_layers,
        batch_size,
        num_kv_heads,
        max_length,
        head_dim,
        dtype=torch.float32,
        device="cpu",
    ):
        shape = 2, batch_size, max_length, num_kv_heads, head_dim
        self.memory = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.filled = dict.fromkeys(range(num_layers), 0)

    @classmethod
    def for_model(cls, config, batch_size, max_length=None, dtype=torch.float32, device="cpu"):
        length = config.context_length if max_length is None else max_length
        heads = config.num_kv_heads
        return cls(config.num_layers, batch_size, heads, length, config.head_dim, dtype, device)

    length = property(lambda self: min(self.filled.values()))
    max_length = property(lambda self: self.memory[0].shape[2])
    batch_size = property(lambda self: self.memory[0].shape[1])
    num_bytes = property(lambda self: sum(each.nbytes for each in self.memory))

    def append(self, layer, keys, values):
        memory, first, end = self.memory[layer], self.filled[layer], keys.shape[2]
        end += first
        assert keys.shape[0] == self.batch_size, f"{keys.shape[0]} texts, not {self.batch_size}"
        assert end <= self.max_length, f"{end} tokens, not {self.max_length}"
        for own, new in zip(memory, (keys, values), strict=True):
            own[:, first:end].copy_(new.transpose(1, 2))
        self.filled[layer] = end
        return tuple(memory[:, :, :end].transpose(2, 3))

    def truncate(self, length):
        assert length in range(self.length + 1), f"{length} of {self.length} tokens"
        self.filled = dict.fromkeys(self.filled, length)

    def repeat_texts(self, times):
        repeated = KVCache.__new__(KVCache)
        texts = [text for text in range(self.batch_size) for _ in range(times)]
        repeated.memory = [each[:, texts] for each in self.memory]
        repeated.filled = dict(self.filled)
        return repeated
