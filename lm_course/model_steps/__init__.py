"""The steps from token shards to the report, one module each."""
