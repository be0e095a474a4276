#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=2
STEPS_PER_RUN=250
MAX_STEPS=250
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=10
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_pretrain.py "$@"

judge \
    'mean(data["train/loss"], -20, 0) < 2.6' \
    'data["validation/loss"]["250"] < 2.6' \
    'data["validation/bits_per_byte"]["250"] < 3.8'
