"""The chat page of the server: its files, and the attention that it shows."""
