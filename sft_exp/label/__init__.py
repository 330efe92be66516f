"""Choose the images to label next, and label them."""
