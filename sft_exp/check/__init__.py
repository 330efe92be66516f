"""Grades results against docs/standard.md, from what they left on disk and not from what they say of themselves."""
