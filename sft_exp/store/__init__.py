"""Results on disk, each in a folder named by the hash of what made it."""
