"""`lm serve`: a model behind OpenAI's API, and how much memory its cache may take."""
