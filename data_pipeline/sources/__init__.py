"""Where pages come from: WARC files, the web servers' responses in them, and the documentation
of the Python installation.
"""
