"""A look inside a tokenizer: tokens that a person can read, and tokenizers side by side."""
