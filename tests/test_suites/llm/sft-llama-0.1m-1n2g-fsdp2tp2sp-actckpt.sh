#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=2
STEPS_PER_RUN=120
MAX_STEPS=120
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=10
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_sft.py "$@"

judge \
    'mean(data["train/loss"], -20, 0) < 0.3' \
    'data["validation/accuracy"]["120"] > 0.8'
