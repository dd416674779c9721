"""Data sets that `lm data get` downloads: their list, and downloads that resume and are checked."""
