"""What a learner starts from and comes back to: the list of tasks, the stubs, the progress."""
