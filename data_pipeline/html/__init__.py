"""HTML as browsers read it: from bytes to characters, then to tags and text."""
