"""`lm data ablate`: what each filter of `lm data build` does for a model."""
