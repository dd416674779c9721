"""Faster training steps, and a stop for runs that diverge; neither changes the computed results."""
