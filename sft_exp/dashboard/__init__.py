"""Make a W&B project's comparison view."""
