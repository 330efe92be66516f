"""A job run in this process or in several, with its run folder."""
