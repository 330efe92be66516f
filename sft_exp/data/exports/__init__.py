"""Readers of what labelling tools write: one module for each format, all of which fill `annotated.Export`."""
