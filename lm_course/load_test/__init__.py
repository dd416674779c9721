"""`lm bench serve`: many clients of a server with OpenAI's API, and how long they wait."""
