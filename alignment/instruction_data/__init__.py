"""Questions, answers and preference pairs as batches."""
