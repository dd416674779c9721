"""Checks of graded functions on inputs that are drawn from a declared space."""
