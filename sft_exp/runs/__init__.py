"""The pipeline from a job's requests to its results."""
