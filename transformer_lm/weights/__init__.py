"""Weights of other programs: the layouts of Hugging Face's families and of llama.cpp's GGUF
files, read and written.
"""
