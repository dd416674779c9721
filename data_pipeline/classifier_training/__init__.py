"""What a trained classifier needs: texts to train on, model files, and figures on held-out texts."""
