"""Collectives, the layout of flat shards, and the bytes that each parallel scheme moves."""
