"""Images, labels, their splits, and the readers that make them from files."""
