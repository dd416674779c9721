"""Training texts for the classifiers: those written for the built-in models, and a user's own documents."""
