"""Rules of C4 and FineWeb, what rules measure of a text, and verdicts that outlive a threshold."""
