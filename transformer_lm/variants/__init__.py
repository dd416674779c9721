"""Feed-forward layers that the setting `mlp` can name instead of those of the assignment."""
