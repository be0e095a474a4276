#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=1
STEPS_PER_RUN=75
MAX_STEPS=75
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=10
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_vlm_grpo.py "$@"

judge \
    'mean(data["train/reward"], -10, 0) > 0.45' \
    'data["validation/accuracy"]["75"] > 0.65'
