"""Sources of pages: WARC files, the HTTP responses in them, and the documentation of the Python
installation.
"""
