"""`lm compete`: models trained under one budget, their verses, people's votes and the page."""
