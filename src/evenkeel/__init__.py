"""evenkeel: nightly convergence testing of LLM and VLM training."""
