# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# The tier spdk on a controller that vfio-pci has, in a guest: format, load with verify, kill -9 and recovery, verify;
# and as a user without privileges, with the hugepages that host.sh mounts for it.
# FOREBAY_SPDK names a binary with the feature spdk, by default target/spdk/release/forebay of this tree; FOREBAY_SPDK_TESTS
# the kill test's program with it, by default the newest of target/spdk/debug.

spdk=${FOREBAY_SPDK:-$setup/../target/spdk/release/forebay}
build="cargo build --release --features spdk --target-dir target/spdk (vendor/README.md)"

# spdk_tests: the kill test's program with the feature spdk, the newest; nothing when there is none.
spdk_tests() {
    local file newest=''
    if [ -n "${FOREBAY_SPDK_TESTS:-}" ]; then realpath "$FOREBAY_SPDK_TESTS" && return; fi
    for file in "$(dirname "$spdk")"/../debug/deps/end_to_end-*; do
        if [ -x "$file" ] && [[ $file != *.d ]] && { [ -z "$newest" ] || [ "$file" -nt "$newest" ]; }; then newest=$file; fi
    done
    printf '%s' "${newest:+$(realpath "$newest")}"
}

spdk_in_guest() {
    local tests
    tests=$(spdk_tests)
    in_guest "spdk" --iommu --memory 3072 --size 256 --timeout 600 <<END
$prelude
cd $setup
said() { grep -cE "\$1" /run/said || { cat /run/said >&2; false; }; }
$spdk format pcie:0000:01:00.0@2 2>/run/said
is "trouble: the kernel's driver has it" 1 "\$(said 'driver .nvme. has this controller.*host.sh config --bind 0000:01:00.0')"
./host.sh config --hugepages 300 --bind 0000:01:00.0 || exit
d=pcie:0000:01:00.0@2
cat >/run/config.toml <<CONFIG
device.path = "\$d"
reactors.cores = [0]
reactors.spin = "forever"
limits.memory_bytes_max = "64MiB"
limits.sessions_max = 16
CONFIG
cat >/run/job.fio <<JOB
[job]
rw=randwrite
bs=4k
iodepth=8
runtime=3
verify=crc32c
size=4m
JOB
setpriv --reuid nobody --clear-groups $spdk format \$d 2>/run/said
is "trouble: no permission" 1 "\$(said 'may not be opened by this user.*--user NAME')"
$spdk serve --device /dev/nvme0n2 2>/run/said
is "trouble: the block device is gone" 1 "\$(said 'No such file')"
$spdk format \$d --segment-bytes 4MiB --shards 2
is "format" 0 \$?
$spdk --config /run/config.toml load --device \$d /run/job.fio >/run/load 2>&1
is "load" 0 \$?
grep -qw '0 wrong' /run/load && ! grep -qE '[1-9][0-9]* wrong' /run/load
is "load: verify" 0 \$?
$spdk format \$d --segment-bytes 4MiB --shards 2 --force || exit
serve() {
    $spdk --config /run/config.toml serve --socket /run/forebay.sock &
    for i in \$(seq 300); do $spdk --socket /run/forebay.sock stats >/dev/null 2>&1 && break; sleep 0.1; done
}
serve
for i in 1 2 3; do $spdk --socket /run/forebay.sock put orders \$i "value\$i" --create=strict || exit; done
$spdk --config /run/config.toml verify \$d >/dev/null 2>/run/said
is "trouble: two processes" 1 "\$(said 'another process drives this controller.*fuser')"
kill -KILL %1; wait %1
serve
is "recovered after kill -9" value1value2value3 "\$(for i in 1 2 3; do $spdk --socket /run/forebay.sock get orders \$i; done)"
kill %1; wait %1
is "stop" 0 \$?
$spdk verify \$d
is "verify" 0 \$?
./host.sh config --user nobody --hugepages 300 --bind 0000:01:00.0 || exit
mkdir /run/user && chown nobody /run/user
setpriv --reuid nobody --clear-groups $spdk --config /run/config.toml serve --socket /run/user/socket &
pid=\$!
for i in \$(seq 300); do $spdk --socket /run/user/socket stats >/dev/null 2>&1 && break; sleep 0.1; done
is "a user of its own: hugepages from its own mount, not the first" 1 "\$(grep -qF /dev/hugepages-nobody/ /proc/\$pid/maps && echo 1)"
is "a user of its own: serves" value1 "\$($spdk --socket /run/user/socket get orders 1)"
kill \$pid; wait \$pid
is "a user of its own: stop" 0 \$?
if [ -n "$tests" ]; then
    FOREBAY_TEST_DEVICE=\$d FOREBAY_KILLS=${FOREBAY_KILLS:-6} timeout 300 $tests --exact --nocapture kill::what_was_acknowledged_survives_kill_9
    is "kill test" 0 \$?
fi
END
    if [ -z "$tests" ]; then skip 1 "spdk: the kill test; cargo test --no-run --features spdk --target-dir target/spdk --test end_to_end"; fi
}

if why=$(guest_missing nvme=nvme-cli); then
    skip 14 "spdk: $why"
elif [ ! -x "$spdk" ]; then
    skip 14 "spdk: no binary at $spdk; $build"
else
    spdk=$(realpath "$spdk")
    spdk_in_guest
fi
