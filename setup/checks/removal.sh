# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# In a guest: a drive that warns, is pulled under load, comes back, and is taken back. By NVMe commands, each write
# flushed: QEMU's drive ignores FUA. FOREBAY names the binary, by default target/release/forebay of this tree.

removal_work=$scratch/removal
removal_forebay=${FOREBAY:-$setup/../target/release/forebay}

# What runs in the guest. Its lines "+ok X" and "-ok X" count; marks in /testbed ask the host to pull and return.
removal_script() {
    cat <<END
forebay=$removal_forebay socket=/run/forebay.sock
END
    cat <<'END'
is() { if [ "$2" = "$3" ]; then echo "+ok $1"; else echo "-ok $1: wanted $2, found $3"; fi; }
has() { if grep -q -- "$2" "$3"; then echo "+ok $1"; else echo "-ok $1: no '$2' in: $(tail -n 5 "$3" | tr '\n' ' ')"; fi; }
f() { "$forebay" --socket "$socket" "$@"; }
wait_for() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; }
drive() { ls /dev/nvme*n2 2>/dev/null; }
serve() {
    "$forebay" --config /run/forebay.toml serve --device "$(drive)" --socket $socket 2>>/run/log &
    daemon=$!
    wait_for test -S $socket
}
# The first and the last ones: a process each, on an emulated processor.
stored() { { head -n 3 /run/acknowledged; tail -n 5 /run/acknowledged; grep -B 2 -A 2 -x "$at_pull" /run/acknowledged; } | while read -r i; do [ "$(f get load "$i")" = "value$i" ] || echo "$i"; done; }
begun() { [ "$(wc -l </run/acknowledged)" -gt 2 ]; }
goes_on() { [ "$(wc -l </run/acknowledged)" -gt "$before" ]; }
warned() { f stats | grep -q "reliability is degraded"; }
appeared() { [ -n "$(drive)" ]; }
pulled() { [ -z "$(ls /sys/class/nvme)" ]; }
load() {
    i=0
    while [ ! -e /run/stop ]; do
        i=$((i + 1))
        if f put load $i "value$i" >/dev/null 2>/run/refused.new; then echo $i >>/run/acknowledged; else mv /run/refused.new /run/refused; fi
    done
}

printf 'device.durability = "flush"\nreactors.spin = "50us"\nformat.shards = 1\n' >/run/forebay.toml
"$forebay" format "$(drive)" --segment-bytes 16MiB --shards 1 || exit
serve
has "the tier and its durability" 'passthrough.*write, then flush' /run/log
f append events begin --create=buffered >/dev/null
f put load 0 value0 --create=strict >/dev/null && echo 0 >/run/acknowledged
f tail events >/run/tailed 2>&1 &
tail=$!
load &
loader=$!
wait_for begun
touch /testbed/warn
wait_for warned
has "the warning is in the log" 'the drive warns: reliability is degraded' /run/log
touch /testbed/pull
wait_for pulled
wait_for test -s /run/refused
has "writers are told" 'stopped writing after a device error' /run/refused
is "readers go on" value0 "$(f get load 0)"
has "the daemon says why" 'the shard stops writing.*the device is gone' /run/log
f resume 2>/run/resume
is "it is not there yet" 1 $?
at_pull=$(tail -n 1 /run/acknowledged)
touch /testbed/return
wait_for appeared
f resume --device "$(drive)" >/run/resume 2>&1
is "it is taken back" 0 $?
has "with words" 'taken back by passthrough' /run/resume
before=$(wc -l </run/acknowledged)
wait_for goes_on
f append events again >/dev/null
wait_for grep -q again /run/tailed
has "a session goes on" again /run/tailed
touch /run/stop
wait $loader
is "writes go on" 1 "$(($(wc -l </run/acknowledged) > before))"
is "all that was acknowledged is there" '' "$(stored)"
kill -KILL $daemon $tail
wait $daemon 2>/dev/null
rm -f $socket
serve
is "and after kill -9" '' "$(stored)"
kill $daemon
wait $daemon
is "a stop in good order" 0 $?
END
}

guest_removal() {
    local guest_pid mark said line
    rm -rf "$removal_work"
    removal_script >"$scratch/script"
    "$setup/testbed/run" --work "$removal_work" --timeout 240 bash -u "$scratch/script" >"$scratch/pulled" 2>&1 &
    guest_pid=$!
    for mark in warn pull return; do
        while kill -0 "$guest_pid" 2>/dev/null && [ ! -e "$removal_work/share/$mark" ]; do sleep 0.1; done
        case $mark in
            warn) said=$("$setup/testbed/qmp.py" "$removal_work/qmp.sock" alarm 4 2>&1) ;;
            pull) said=$("$setup/testbed/qmp.py" "$removal_work/qmp.sock" remove 2>&1) ;;
            return) said=$("$setup/testbed/qmp.py" "$removal_work/qmp.sock" 'return' 2>&1) ;;
        esac || same "$mark" "" "$said"
    done
    local code=0
    wait "$guest_pid" || code=$?
    cp "$scratch/pulled" "$scratch/output"
    while read -r line; do
        case $line in
            '+ok '*) pass ;;
            '-ok '*) fail "removal: ${line#-ok }" ;;
        esac
    done < <(cat "$scratch/pulled")
    same "removal: exit code" 0 "$code"
    # A guest that dies early has few lines and no failed one.
    same "removal: checks that ran" 13 "$(grep -c '^[+-]ok ' "$scratch/pulled")"
}

removal_missing=$(need qemu-system-x86_64=qemu-system-x86 cpio=cpio modprobe=kmod zstd=zstd xz=xz-utils 2>&1) || true
if [ "${guest:-1}" = 0 ]; then
    skip 15 "removal in a guest, as asked"
elif [ -n "$removal_missing" ]; then
    skip 15 "removal in a guest: $removal_missing"
elif [ ! -x "$removal_forebay" ]; then
    skip 15 "removal in a guest: no binary at $removal_forebay; cargo build --release"
elif ! "$setup/testbed/prep" >"$scratch/output" 2>&1; then
    skip 15 "removal in a guest: $(tail -n 1 "$scratch/output")"
else
    guest_removal
fi
