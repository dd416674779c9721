"""Layer 0: the file formats that connect the stages, and the infrastructure that they share."""

from lm_core import earlier_names as earlier_names  # installs its finder
