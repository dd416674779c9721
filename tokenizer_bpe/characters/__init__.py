"""Tokenizers with one token for each character, and reading files of either kind of tokenizer."""
