#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=2
STEPS_PER_RUN=80
MAX_STEPS=80
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=10
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_grpo.py "$@"

judge \
    'mean(data["train/reward"], -20, 0) > 0.4' \
    'data["validation/accuracy"]["80"] > 0.8' \
    'max(data["train/token_mult_prob_error"]) < 1.05'
