"""The small runs that a surface is fitted to: trained, kept in a table, and doubted."""
