"""Quantized models in files, ours and GGUF, and the error of each layer."""
