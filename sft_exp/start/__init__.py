"""Go from a folder of images to a model and a page about it."""
