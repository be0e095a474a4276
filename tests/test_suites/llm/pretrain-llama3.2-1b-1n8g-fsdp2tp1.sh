#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=8
STEPS_PER_RUN=1000
MAX_STEPS=1000
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=120
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_pretrain.py "$@"

judge \
    'mean(data["train/loss"], -50, 0) < 4.2' \
    'data["validation/loss"]["1000"] < 4.2' \
    'mean(data["train/grad_norm"], -50, 0) < 2.0'
