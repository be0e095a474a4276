"""Whether a run still converges: verdicts, baselines, statistics and history."""
