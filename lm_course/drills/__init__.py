"""Drills: a copy of the reference with one hidden mistake, which the learner finds by its line."""
