"""`lm compare`: a model layer by layer against the same model in `transformers`."""
