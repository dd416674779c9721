"""Control tokens, and the chat templates of other models, which are written in Jinja."""
