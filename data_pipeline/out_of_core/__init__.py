"""Near duplicates among more documents than fit in memory: sketches on disk, one band at a time."""
