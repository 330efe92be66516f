"""What stands on an encoder: heads, what their tasks share, and where they start."""
