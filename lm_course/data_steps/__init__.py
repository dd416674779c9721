"""The steps from pages to token shards, one module each."""
