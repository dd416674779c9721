"""`lm serve`: models behind OpenAI's API and a chat page, and how much memory their caches may
take.
"""
