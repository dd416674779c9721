"""Layer 0: the file formats and the plumbing that all stages share."""

from lm_core import earlier_names as earlier_names  # installs its finder on any import
