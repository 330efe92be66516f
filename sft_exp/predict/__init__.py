"""Write predictions for image files."""
