"""OpenAI's API over HTTP: requests, answers streamed or whole, limits and metrics."""
