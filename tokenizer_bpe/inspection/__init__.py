"""Tools for looking inside a tokenizer: readable tokens, and comparisons between tokenizers."""
