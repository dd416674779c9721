"""Mutation testing of the graded suites: planted and generated mistakes, graded by their tasks."""
