"""Text of pages beyond the lesson: resiliparse, plain text, and a comparison of extractors."""
