#!/bin/bash
#SBATCH --account=team
#SBATCH --comment='{"reaper": {"exemptIdleTimeMins": "60"}}'
#SBATCH --exclude=n7,n9
#SBATCH --exclusive
#SBATCH --export=ALL
#SBATCH --gres=gpu:8
#SBATCH --job-name=sft-llama3.2-1b-2n8g-fsdp2tp1.v2-try:20260102T030405-abcdef:2
#SBATCH --nice
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/shared/my code/code_snapshots/.launches/20260102T030405-abcdef/0/run-2.out'
#SBATCH --partition=batch
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --segment=2
#SBATCH --signal=B:USR1@120
#SBATCH --time=01:30:00

# Job 2 of sft-llama3.2-1b-2n8g-fsdp2tp1.v2, launch 20260102T030405-abcdef.
# Written by evenkeel; submit it with sbatch, or run it with bash where it lies.
tree='/shared/my code/code_snapshots/.trees/1'
driver='/shared/my code/code_snapshots/.trees/1/tests/test_suites/llm/sft-llama3.2-1b-2n8g-fsdp2tp1.v2.sh'
run_dir='/shared/my code/code_snapshots/.trees/1/tests/test_suites/llm/sft-llama3.2-1b-2n8g-fsdp2tp1.v2'
stop_request='/shared/my code/code_snapshots/.trees/1/tests/test_suites/llm/sft-llama3.2-1b-2n8g-fsdp2tp1.v2/stop_request'
journal='/shared/my code/code_snapshots/.launches/20260102T030405-abcdef/0/run-2.journal'
claim='/shared/my code/code_snapshots/.launches/20260102T030405-abcdef/0/run-2.claim'
job_name=sft-llama3.2-1b-2n8g-fsdp2tp1.v2-try:20260102T030405-abcdef:2
stop_at_limit='the time limit of the job is near'
run_json='/shared/my code/code_snapshots/.trees/1/tests/test_suites/llm/sft-llama3.2-1b-2n8g-fsdp2tp1.v2/run.json'
is_first=''
max_restarts=3
exit_no_tree=91
exit_too_many_restarts=92
exit_diverged=76
driver_arguments=(sft.max_num_steps=20 'logger.wandb.name=two words')

export PATH=/venv/bin:$PATH
# the package of the snapshot, not the one that lies where the launcher was installed
[ ! -d "$tree/src/evenkeel" ] || export PYTHONPATH="$tree/src${PYTHONPATH:+:$PYTHONPATH}"
export EVENKEEL_PYTHON=/venv/bin/python3
export EVENKEEL_LAUNCH_ID=20260102T030405-abcdef
export EVENKEEL_SNAPSHOT_COMMIT=0123456789abcdef0123456789abcdef01234567
export EVENKEEL_CONTAINER='/images/it'"'"'s.sqsh'
export EVENKEEL_MOUNTS='/shared/my code/code_snapshots/.trees/1:/shared/my code/code_snapshots/.trees/1,/data:/data:ro'
export GREETING='it'"'"'s $HOME; `x`'

source '/shared/my code/code_snapshots/.launches/20260102T030405-abcdef/job_body-DIGEST.sh'
exit 91  # the body has gone, and so has the snapshot
