"""All filters over many pages: one page that is slow or broken costs one page."""
