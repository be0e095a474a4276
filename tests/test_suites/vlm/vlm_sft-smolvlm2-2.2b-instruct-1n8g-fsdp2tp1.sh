#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=8
STEPS_PER_RUN=150
MAX_STEPS=150
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=60
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_vlm_sft.py "$@"

judge \
    'mean(data["train/loss"], -20, 0) < 1.1' \
    'data["validation/loss"]["150"] < 1.1'
