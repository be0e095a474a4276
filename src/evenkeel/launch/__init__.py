"""From a driver to its finished run: plans, snapshots, jobs, and how each job ended."""
