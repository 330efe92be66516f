"""Remove what no run refers to from the store."""
