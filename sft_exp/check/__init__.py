"""Grade results against docs/standard.md."""
