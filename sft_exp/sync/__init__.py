"""Upload offline runs to Weights & Biases."""
