"""Sampling answers from the policy in training."""
