#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=8
STEPS_PER_RUN=250
MAX_STEPS=250
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=30
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_sft.py "$@"

judge \
    'mean(data["train/loss"], -20, 0) < 1.45' \
    'data["validation/loss"]["250"] < 1.45' \
    'mean(data["train/grad_norm"], -20, 0) < 5.0'
