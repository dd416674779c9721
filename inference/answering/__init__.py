"""From an engine's tokens to answers: its thread, whole characters, JSON, calls of functions."""
