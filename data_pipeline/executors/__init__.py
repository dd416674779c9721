"""The filters applied to many pages; a slow or broken page is skipped and counted."""
