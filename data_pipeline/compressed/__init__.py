"""Compressed files read member by member (gzip members, zstd frames), also where they are
damaged.
"""
