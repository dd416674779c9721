"""The grader: it runs a learner's code against the checks of an assignment and awards points."""
