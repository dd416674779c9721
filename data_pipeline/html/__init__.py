"""A page's bytes as characters, and its characters as tags and text, as browsers read them."""
