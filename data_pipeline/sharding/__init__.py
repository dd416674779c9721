"""Token shards made by several threads or processes, and mixed from several sources."""
