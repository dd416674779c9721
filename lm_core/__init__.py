"""Floor 0: the file formats through which the stages meet, and the plumbing that they share."""

from lm_core import earlier_names as earlier_names  # its finder, wherever anything of ours is used
