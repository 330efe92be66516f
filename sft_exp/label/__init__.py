"""Behind `label`, `suspicious` and `forecast`: which images, on which page, and what they would bring."""
