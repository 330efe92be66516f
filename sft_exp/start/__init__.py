"""Go from a folder of images to a trained model and one page about it."""
