"""The trainers themselves: the only room that imports torch."""

import os

# Read when torch loads its OpenMP, so it stands before every import of torch. Threads that spin
# while they wait for each other make a training on a busy machine many times slower: 25 steps of
# the 0.9 M model on 2 cores at load 10 took 150 s spinning and 14 s sleeping.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
