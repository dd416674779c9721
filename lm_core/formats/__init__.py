"""The file formats through which the stages meet: documents, token shards, checkpoints, metrics,
and the container of GGUF.
"""
