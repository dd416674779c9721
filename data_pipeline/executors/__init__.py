"""The filters applied to many pages; a slow or broken page costs only itself."""
