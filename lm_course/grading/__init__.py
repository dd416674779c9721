"""The grader: a learner's code against the checks of an assignment, and points for it."""
