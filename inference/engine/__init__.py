"""From text to text: the engine that reads a checkpoint, conversations in the terminal, samples."""

from inference.engine.engine import Engine as Engine
