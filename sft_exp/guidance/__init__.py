"""What is known about which settings work where, and the settings that follow from it for a user's own images."""
