"""`lm doctor`: whether this machine's numbers can be trusted, and what can be trained on it."""
