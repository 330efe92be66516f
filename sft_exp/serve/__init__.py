"""Serve a page that classifies a dropped image."""
