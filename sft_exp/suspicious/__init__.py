"""List labels that are probably wrong."""
