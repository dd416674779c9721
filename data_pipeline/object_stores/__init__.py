"""Files of object stores (S3 and others that fsspec knows): listed, read one by one, written."""
