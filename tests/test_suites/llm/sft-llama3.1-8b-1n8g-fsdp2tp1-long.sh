#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=8
STEPS_PER_RUN=350
MAX_STEPS=1400
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=240
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_sft.py "$@"

judge \
    'mean(data["train/loss"], -50, 0) < 1.15' \
    'data["validation/loss"]["1400"] < 1.15' \
    'mean(data["train/grad_norm"], -50, 0) < 5.0'
