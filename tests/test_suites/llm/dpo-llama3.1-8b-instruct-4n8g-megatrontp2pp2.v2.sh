#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=4
GPUS_PER_NODE=8
STEPS_PER_RUN=150
MAX_STEPS=150
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=60
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_dpo.py "$@"

judge \
    'mean(data["train/preference_loss"], -20, 0) < 0.63' \
    'mean(data["train/accuracy"], -20, 0) > 0.65' \
    'data["validation/preference_loss"]["150"] < 0.65'
