"""What trained classifiers need: texts to train on, model files, and figures on held-out texts."""
