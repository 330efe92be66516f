"""A job from its requests to its results."""
