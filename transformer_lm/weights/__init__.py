"""Weights of other programs: reading and writing the layouts of Hugging Face's families and of
llama.cpp's GGUF files.
"""
