"""Attention as a program calls it: which code computes it on this machine, and the launcher of
the GPU kernels.
"""
