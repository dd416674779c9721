"""Sources of pages and texts: WARC, WET and ARC files, the HTTP responses in them, the
documentation of the Python installation, and plain text files.
"""
