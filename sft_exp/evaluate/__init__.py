"""Score a run's model on new labelled images."""
