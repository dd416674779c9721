"""Text in, text out: the engines of one text and of many requests, their forward passes, the
terminal chat, and the samples of a run.
"""

from inference.engine.engine import Engine as Engine
