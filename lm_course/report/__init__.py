"""The report of a run: one page and its plots; and the funnel of a build for the terminal."""
