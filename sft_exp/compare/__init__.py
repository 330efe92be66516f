"""Compare the jobs of sweeps, or single runs."""
