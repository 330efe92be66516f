"""Behind `predict` and `serve`: a trained model asked about new images, and what it answers as files."""
