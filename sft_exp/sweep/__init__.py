"""Many jobs: composed, checked, run by a worker process, and summed up."""
