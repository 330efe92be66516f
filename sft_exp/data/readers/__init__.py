"""From files to a corpus: images, masks, boxes. What is broken, missing or double is said before
any use."""
