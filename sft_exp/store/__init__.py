"""Cached results on disk, in folders named by the hash of the request."""
