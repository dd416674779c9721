"""`python -m lm_course` is the same as `lm`, for when the script is not on the path."""

from lm_course.cli import main

main()
