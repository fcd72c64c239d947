# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# Every state that a power cut can leave of a logged trace (setup/testbed/crashstates). FOREBAY_STATES says how many.

if why=$(guest_missing nvme=nvme-cli); then
    skip 1 "crash states: $why"
elif ! ls "$setup"/../target/debug/deps/{end_to_end,images}-* >/dev/null 2>&1; then
    skip 1 "crash states: no test programs; cargo test --no-run"
else
    expect 0 '^replayed: .* planted losses found' "crash states" "$setup/testbed/crashstates" --states "${FOREBAY_STATES:-2000}"
    sed -n 's/^replayed: /        crash states: /p' "$scratch/output"
fi
