"""The file formats that the stages share: documents, token shards, checkpoints, metrics, and the
GGUF container.
"""
