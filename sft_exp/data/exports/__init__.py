"""Readers of labelling tools' exports: one module per format, all of which return
`annotated.Export`."""
