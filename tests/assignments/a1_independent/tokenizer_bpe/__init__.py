"""A byte-level BPE tokenizer and its trainers, written from the handout of assignment a1."""
