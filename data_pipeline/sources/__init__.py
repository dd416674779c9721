"""Sources of pages and texts: files and folders of crawls, HTML, parquet, JSON lines and text, and
the documentation of the Python installation.
"""
