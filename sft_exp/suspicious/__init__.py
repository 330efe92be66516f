"""List labels to look at again."""
