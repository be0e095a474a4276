"""The two sides of ``benchmarks/training.py``, and what they have in common."""
