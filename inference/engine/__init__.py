"""Text in, text out: the engine that reads a checkpoint, the terminal chat, and the samples of a
run.
"""

from inference.engine.engine import Engine as Engine
