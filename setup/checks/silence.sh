# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# In a guest: a device that does not answer, and then does. Device mapper's suspend keeps what is written to it for as long
# as one likes, without a time-out. FOREBAY names the binary, by default target/release/forebay of this tree.

silence_forebay=${FOREBAY:-$setup/../target/release/forebay}

# silence_common: what holds by every tier whose device is asked and does not answer. $dev, $tier and $live say which.
silence_common() {
    cat <<'END'
is() { if [ "$2" = "$3" ]; then echo "+ok $1"; else echo "-ok $1: wanted $2, found $3"; fi; }
has() { if grep -qE -- "$2" "$3"; then echo "+ok $1"; else echo "-ok $1: no '$2' in: $(tail -n 5 "$3" | tr '\n' ' ')"; fi; }
f() { timeout 60 "$forebay" --socket "$socket" "$@"; }
wait_for() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; }
dm() { dmsetup --noudevsync --noudevrules "$@" || exit; }
serve() {
    "$forebay" --config /run/forebay.toml serve --tier "$1" --device "$dev" --socket $socket 2>/run/log &
    daemon=$!
    wait_for test -S $socket
}
gone() { ! kill -0 $daemon 2>/dev/null; }
word() { f stats --json | grep -oE "\"$1\":[0-9]+" | head -n 1 | cut -d : -f 2; }
under_way() { [ "$(word device_oldest_ns)" -gt 0 ]; }

printf 'device.timeout = "8s"\nreactors.spin = "50us"\nformat.shards = 1\n' >/run/forebay.toml
silence() {
"$forebay" format $dev --segment-bytes 16MiB --shards 1 || exit
serve "$tier"
has "by io_uring" "tier=\"$live" /run/log
f put orders 1 before --create=strict || exit

dm suspend --noflush --nolockfs slow
begun=$SECONDS
f put orders 2 unanswered 2>/run/refused
is "a writer is told" 1 $?
is "after the time-out" 1 "$((SECONDS - begun >= 8 && SECONDS - begun < 40))"
has "that the device failed" 'stopped writing' /run/refused
has "a warning before that" "WARN .*$dev has not ended an operation for [0-9]+ s.*Forebay after 8 s" /run/log
has "the reason" 'ERROR the shard stops writing.*did not answer within device.timeout' /run/log
is "readers go on" before "$(f get orders 1)"
is "stats: the stall" 1 "$(($(word device_stalls) >= 1))"
is "stats: its age, in ns" 1 "$(($(word device_oldest_ns) >= 8000000000))"
dm resume slow
wait_for test "$(word device_oldest_ns)" = 0
f resume --device $dev >/run/resume 2>&1
is "it answers again, and is taken back" 0 $?
f put orders 3 after
is "and written to" 0 $?

dm suspend --noflush --nolockfs slow
f put orders 4 unanswered 2>/dev/null &
wait_for under_way
begun=$SECONDS
kill $daemon
wait $daemon
is "a stop does not wait for ever" 1 $?
is "but as long as the time-out" 1 "$((SECONDS - begun < 40))"
has "and says why" 'stopped with shards that had been fenced: .*did not answer' /run/log
dm resume slow
# The old process may still be on its way out of the kernel.
for _ in $(seq 100); do serve "$1"; f stats >/dev/null 2>&1 && break; sleep 0.2; done
is "all that was acknowledged is there" before/after "$(f get orders 1)/$(f get orders 3)"
}
finish() {
kill $daemon
wait $daemon
is "a stop in good order" 0 $?
}
END
}

# By the block layer, and then by writes that block their thread.
silence_in_guest() {
    { echo "forebay=$silence_forebay socket=/run/forebay.sock dev=/dev/dm-0 tier=uring live=block" && silence_common && cat; } \
        <<'END' >"$scratch/silence"
modprobe dm-mod || exit
dm create slow --table "0 $(blockdev --getsz /dev/nvme0n2) linear /dev/nvme0n2 0"
silence blocking
dm suspend --noflush --nolockfs slow
f put orders 5 unanswered 2>/run/refused
is "a thread that hangs in the kernel: the writer is told" 1 $?
has "that the daemon is gone" 'daemon is gone' /run/refused
has "and the log says why" 'ERROR reactor 0 has been inside the kernel for [0-9]+ s, waiting for /dev/dm-0' /run/log
dm resume slow
wait_for gone
wait $daemon
is "the process ends when the kernel lets go" 1 $?
serve uring
is "nothing acknowledged is lost" before/after "$(f get orders 1)/$(f get orders 3)"
finish
END
    in_guest "silence" --size 256 --timeout 400 <"$scratch/silence"
    same "silence: checks that ran" 21 "$(grep -c '^[+-]ok ' "$scratch/output")"
}

# By NVMe commands: Linux's own NVMe target answers for a controller, and the drive behind it does not. The kernel's own
# time-out is raised above ours, or its reset would come first.
silence_by_passthrough() {
    { echo "forebay=$silence_forebay socket=/run/forebay.sock dev=/dev/nvme1n1 tier=passthrough live=passthrough" && silence_common && cat; } \
        <<'END' >"$scratch/silence"
modprobe dm-mod || exit
namespace=/sys/kernel/config/nvmet/subsystems/forebay/namespaces/1
echo 200 >/sys/module/nvme_core/parameters/io_timeout
nvme disconnect --nqn=forebay >/dev/null
dm create slow --table "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"
echo 0 >$namespace/enable && printf /dev/dm-0 >$namespace/device_path && echo 1 >$namespace/enable || exit
nvme connect --transport=tcp --traddr=127.0.0.1 --trsvcid=4420 --nqn=forebay --nr-io-queues=2 >/dev/null || exit
wait_for test -b $dev
silence passthrough
finish
END
    in_guest "silence, passthrough" --fabric --size 256 --timeout 400 <"$scratch/silence"
    same "silence, passthrough: checks that ran" 16 "$(grep -c '^[+-]ok ' "$scratch/output")"
}

if why=$(guest_missing dmsetup=dmsetup nvme=nvme-cli); then
    skip 41 "a silent device in a guest: $why"
elif [ ! -x "$silence_forebay" ]; then
    skip 41 "a silent device in a guest: no binary at $silence_forebay; cargo build --release"
else
    silence_in_guest
    silence_by_passthrough
fi
