# The body of every batch script; the lines above it set the variables in lower case.

job=${SLURM_JOB_ID:-local-$$}
restart=${SLURM_RESTART_COUNT:-0}

note() { # event, detail
    printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$(date +%s)" "$job" "$restart" "$2" >>"$journal"
}

leave() { # exit status
    note end "$1"
    exit "$1"
}

has_ended() { # job id: does the journal hold its end?
    [ -f "$journal" ] && awk -F'\t' -v job="$1" \
        '$1 == "end" && $3 == job { found = 1 } END { exit !found }' "$journal"
}

last_exit_status() { # of the trainer, from run.json, which lists its starts in order
    grep -o '"exit_status": *-\{0,1\}[0-9]*' "$run_json" 2>/dev/null | tail -n 1 | grep -o '[0-9-]*$'
}

# One run is done by one job. A submit whose answer was lost may have left a twin.
if ! (set -C && echo "$job" >"$claim") 2>/dev/null; then
    owner=$(cat "$claim")
    if [ "$owner" != "$job" ]; then
        if has_ended "$owner"; then
            echo "evenkeel: job $owner has done this run already"
            exit 0
        fi
        if [ "$(squeue -h -j "$owner" -o %j 2>/dev/null)" = "$job_name" ]; then
            echo "evenkeel: job $owner does this run"
            exit 0
        fi
        echo "$job" >"$claim.$job" && mv -f "$claim.$job" "$claim"
    fi
fi

if [ "$restart" -gt "$max_restarts" ]; then
    echo "evenkeel: requeued $restart times; giving up"
    leave "$exit_too_many_restarts"
fi
if ! cd "$tree" || ! [ -f "$driver" ]; then
    echo "evenkeel: the snapshot $tree is gone, or cannot be seen from $(hostname)"
    leave "$exit_no_tree"
fi
if [ -z "$is_first" ] && [ "$(last_exit_status)" = "$exit_diverged" ]; then
    echo "evenkeel: the job before ended with a non-finite loss; this one does not go on from there"
    leave "$exit_diverged"
fi
# what somebody asked of an earlier job's trainer does not concern this one
rm -f "$stop_request"

driver_pid=
interrupted=
ask_to_stop() {
    interrupted=yes
    note signal USR1
    mkdir -p "$run_dir"
    printf '%s\n' "$stop_at_limit" >"$stop_request.$job"
    mv -f "$stop_request.$job" "$stop_request"
}
pass_on_term() {
    interrupted=yes
    note signal TERM
    [ -z "$driver_pid" ] || kill -TERM "$driver_pid" 2>/dev/null
}
trap ask_to_stop USR1
trap pass_on_term TERM

note start "${SLURM_JOB_NODELIST:-$(hostname)}"
bash "$driver" "${driver_arguments[@]}" &
driver_pid=$!
status=
while true; do
    interrupted=
    wait "$driver_pid"
    answer=$?
    # 127: the wait before was interrupted although it had the status already
    [ "$answer" -eq 127 ] && [ -n "$status" ] || status=$answer
    [ -n "$interrupted" ] || break
done
leave "$status"
