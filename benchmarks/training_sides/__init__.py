"""The sides of ``benchmarks/training.py`` and ``gpu_training.py``, and what they have in common."""
