"""The filters applied to many pages by local processes or Ray; a page that hangs or kills its
worker is skipped and counted.
"""
