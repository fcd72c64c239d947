# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# Power cuts under load in guests, by every way to the drive (setup/testbed/powercuts). FOREBAY_CUTS says how many.

power_cuts() {
    local code=0 way
    "$setup/testbed/powercuts" --cuts "${FOREBAY_CUTS:-20}" >"$scratch/cuts" 2>&1 </dev/null || code=$?
    cp "$scratch/cuts" "$scratch/output"
    same "power cuts: exit code" 0 "$code"
    for way in 'FUA: passthrough, interrupts' 'FUA: block, interrupts' 'flush: passthrough, interrupts' 'flush: blocking, interrupts' 'cache off: block, IOPOLL'; do
        expect 0 "^ok +$way: .*cuts: [1-9]" "power cuts, $way" cat "$scratch/cuts"
    done
    expect 0 '^FAILED +lie' "power cuts: a drive that lies is found out" cat "$scratch/cuts"
    sed -n 's/^ok */        /p' "$scratch/cuts"
    skip 1 "power cuts, passthrough, IOPOLL: Linux 6.1 crashes when a polled passthrough command fails"
}

if why=$(guest_missing nbdkit=nbdkit nvme=nvme-cli); then
    skip 8 "power cuts: $why"
elif ! ls "$setup"/../target/debug/deps/end_to_end-* >/dev/null 2>&1; then
    skip 8 "power cuts: no test program; cargo test --no-run"
else
    power_cuts
fi
