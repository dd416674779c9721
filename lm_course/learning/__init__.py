"""A learner's starting point and record: the list of tasks, the stubs, the progress."""
