#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=8
GPUS_PER_NODE=8
STEPS_PER_RUN=200
MAX_STEPS=800
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=240
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_sft.py "$@"

judge \
    'mean(data["train/loss"], -50, 0) < 1.0' \
    'data["validation/loss"]["800"] < 1.05'
