# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# In guests: the drives, power cuts, hot removal, and host.sh with real drivers. FOREBAY names a binary to try as well,
# by default target/release/forebay of this tree.

work=$scratch/guest
fua=0
forebay=${FOREBAY:-$setup/../target/release/forebay}
kills=${FOREBAY_KILLS:-5}

guest_drives() {
    in_guest "drives" --poll-queues 2 --hugepages 16 <<END
$prelude
cd /sys/class/block
is "blocks of 512 B" 512 "\$(cat nvme0n1/queue/logical_block_size)"
is "blocks of 4 KiB" 4096 "\$(cat nvme0n2/queue/logical_block_size)"
is "a volatile write cache" "write back" "\$(cat nvme0n2/queue/write_cache)"
is "polled queues" 1 "\$(cat nvme0n2/queue/io_poll)"
is "the serial" FOREBAY-TESTBED "\$(tr -d ' ' </sys/class/nvme/nvme0/serial)"
is "hugepages" 16 "\$(cat /proc/sys/vm/nr_hugepages)"
is "the host's root is not written" 1 "\$(touch /forebay-guest && ls /forebay-guest | wc -l)"
END
    same "the host's root was not written" '' "$(ls /forebay-guest 2>/dev/null)"
    printf 'echo "%s"; exit 7\n' "\$1" >"$scratch/script"
    expect 7 '^two words$' "the command's output and exit code" "$run" --nvme none --timeout 120 \
        bash "$scratch/script" 'two words'
}

# cut_after_flush KIND: block 1 is flushed, block 2 is not, block 3 is written with FUA; then the power goes.
cut_after_flush() {
    rm -rf "$work"
    cat >"$scratch/script" <<END
$prelude
b A 1 && nvme flush /dev/nvme0n2 && b B 2
head -c 4096 /dev/zero | tr '\0' C >/run/block
nvme write /dev/nvme0n2 --start-block=3 --block-count=0 --data-size=4096 --data=/run/block --force-unit-access
touch /testbed/cut && sleep 100
END
    expect 0 'success' "power cut, $1" "$run" --nvme "$1" --work "$work" --cut-after 100 --timeout 240 bash "$scratch/script"
}

held() { tail -c +$(($2 * 4096 + 1)) "$1" | head -c 1 | tr '\0' 0; }

guest_power_cuts() {
    cut_after_flush vwc
    same "vwc: what was flushed is there, and nothing else" A0 "$(held "$work/n2.raw" 1)$(held "$work/n2.raw" 2)"
    # QEMU's drive says that it has FUA; 7.2 completes such a write like any other.
    if [ "$(held "$work/n2.raw" 3)" = C ]; then fua=1; else skip 1 "FUA: this QEMU's drive ignores it"; fi
    cut_after_flush log
    same "log: what was completed is there" AB "$(held "$work/n2.raw" 1)$(held "$work/n2.raw" 2)"
    expect 0 'image: ' "log: replay" "$setup/testbed/replay.py" "$work/n2.log" image "$work/n2.base" "$work/image" --last-flush
    same "log: the state at the last flush" A0 "$(held "$work/image" 1)$(held "$work/image" 2)"
    expect 125 'before the power was cut' "a cut that came too late is an error" \
        "$run" --nvme none --cut-after 100 --timeout 120 true
}

guest_hot_removal() {
    rm -rf "$work"
    cat >"$scratch/script" <<END
$prelude
touch /testbed/ready
for i in \$(seq 300); do [ -e /sys/class/nvme/nvme0 ] || break; sleep 0.1; done
is "taken out" '' "\$(ls /sys/class/nvme)"
touch /testbed/gone
for i in \$(seq 300); do [ -b /dev/nvme0n2 ] && break; sleep 0.1; done
is "put back" nvme0 "\$(ls /sys/class/nvme)"
END
    "$run" --work "$work" --timeout 240 bash "$scratch/script" >"$scratch/hot" 2>&1 &
    local guest_pid=$! mark
    for mark in ready gone; do
        while kill -0 "$guest_pid" 2>/dev/null && [ ! -e "$work/share/$mark" ]; do sleep 0.1; done
        if [ "$mark" = ready ]; then
            expect 0 'removed' "hot removal" "$setup/testbed/qmp.py" "$work/qmp.sock" remove
        else
            expect 0 'returned' "hot return" "$setup/testbed/qmp.py" "$work/qmp.sock" return
        fi
    done
    wait "$guest_pid" || true
    expect 0 '^[+]ok taken out' "the guest sees the removal" cat "$scratch/hot"
    expect 0 '^[+]ok put back' "the guest sees the return" cat "$scratch/hot"
}

guest_host() {
    in_guest "host.sh" --iommu <<END
$prelude
cd $setup
state() { cat /proc/sys/vm/nr_hugepages; basename \$(readlink /sys/bus/pci/devices/0000:01:00.0/driver); ls /etc/modprobe.d; }
id nobody
before=\$(state)
mkswap /dev/nvme0n1 && ./host.sh config --bind 0000:01:00.0
is "a signature is refused" nvme "\$(state | sed -n 2p)"
dd if=/dev/zero of=/dev/nvme0n1 bs=1M count=2 oflag=direct status=none
./host.sh config --hugepages 16 --bind 0000:01:00.0 --user nobody --poll-queues 2
is "bound" vfio-pci "\$(state | sed -n 2p)"
is "hugepages" 16 "\$(cat /proc/sys/vm/nr_hugepages)"
setpriv --reuid nobody --clear-groups bash -c '[ -r /dev/vfio/vfio ] && : <>/dev/vfio/[0-9]* && touch /dev/hugepages-nobody/x && rm /dev/hugepages-nobody/x'
is "the user may use it" 0 \$?
./host.sh status | grep "driver vfio-pci"
is "status" 0 \$?
./host.sh config --hugepages 16 --bind 0000:01:00.0 --user nobody --poll-queues 2 | grep '^+'
is "config again changes nothing" 1 \$?
./host.sh reset; rmmod vfio_pci
for i in \$(seq 50); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done
is "reset undoes it" "\$(echo \$before)" "\$(echo \$(state))"
./namespace.sh format /dev/nvme0n1 --yes
./host.sh config --hugepages 16
is "a hugetlbfs for everybody" 1 "\$(grep -c ' /dev/hugepages hugetlbfs ' /proc/mounts)"
./host.sh config --hugepages 16 | grep '^+'
is "mounted once" 1 \$?
./host.sh reset
is "reset takes it away" '' "\$(ls -d /dev/hugepages 2>/dev/null)"
is "4 KiB blocks" 4096 "\$(cat /sys/class/block/nvme0n1/queue/logical_block_size)"
END
}

# A strict write outlives the loss of the drive's cache. Where the drive ignores FUA, the daemon writes and flushes.
guest_forebay() {
    local how=''
    if [ "$fua" = 0 ]; then how='--tier blocking'; fi
    rm -rf "$work"
    cat >"$scratch/script" <<END
$forebay format /dev/nvme0n2 --segment-bytes 16MiB && nvme flush /dev/nvme0n2 || exit
$forebay serve $how --device /dev/nvme0n2 --socket /run/forebay.sock &
for i in \$(seq 300); do [ -S /run/forebay.sock ] && break; sleep 0.1; done
for i in 1 2 3; do $forebay --socket /run/forebay.sock put orders \$i "value\$i" --create=strict || exit; done
touch /testbed/cut; sleep 100
END
    expect 0 'ready' "forebay: strict writes and a power cut" "$run" --nvme vwc --work "$work" --cut-after 100 --timeout 240 \
        bash "$scratch/script"
    cat >"$scratch/script" <<END
$forebay serve --device /dev/nvme0n2 --socket /run/forebay.sock &
for i in \$(seq 300); do [ -S /run/forebay.sock ] && break; sleep 0.1; done
for i in 1 2 3; do $forebay --socket /run/forebay.sock get orders \$i; done; echo
END
    expect 0 'value1value2value3' "forebay: all of them are there" "$run" --nvme vwc --work "$work" --timeout 240 bash "$scratch/script"
}

# A drive is marked as ours for the kernel and other tools, which does not stand in our own way; and a copy of a namespace
# on another drive is not taken for it.
guest_own_drive() {
    in_guest "own drive" <<END
$prelude
make() { $forebay format "\$@" --segment-bytes 16MiB 2>&1; }
start() { timeout 60 $forebay serve --device "\$1" --socket /run/forebay.sock 2>&1 & pid=\$!; }
is "format names the drive" 1 "\$(make /dev/nvme0n1 | grep -c '^/dev/nvme0n1 (0000:01:00.0, serial FOREBAY-TESTBED, namespace 1): ')"
blockdev --rereadpt /dev/nvme0n1
is "the kernel sees the partition" nvme0n1p1 "\$(ls /sys/class/block/nvme0n1 | grep p1)"
is "blkid sees whose it is" forebay "\$(blkid -p -o value -s PART_ENTRY_NAME /dev/nvme0n1p1)"
is "the drive is taken" 1 "\$(make /dev/nvme0n1 | grep -c 'holds a Forebay namespace')"
is "the partition is not a drive" 1 "\$(make /dev/nvme0n1p1 --force | grep -c 'name the whole drive, /dev/nvme0n1')"
is "format again, by force, with the partition there" 1 "\$(make /dev/ng0n1 --force | grep -c segments)"
start /dev/nvme0n1
for i in \$(seq 300); do [ -S /run/forebay.sock ] && break; sleep 0.1; done
$forebay --socket /run/forebay.sock put orders 1 value --create=strict
is "served with the partition there" 0 \$?
is "and nobody else takes the partition" 1 "\$(mkfs.ext4 -q /dev/nvme0n1p1 2>&1 | grep -c 'in use')"
kill \$pid && wait \$pid
for end in 0 1020; do dd if=/dev/nvme0n1 of=/dev/nvme0n2 bs=1M skip=\$end seek=\$end count=40 oflag=direct status=none; done
wanted='with serial FOREBAY-TESTBED, namespace 1; this one is serial FOREBAY-TESTBED, namespace 2'
is "a copy is refused" 1 "\$(timeout 60 $forebay serve --device /dev/nvme0n2 2>&1 | grep -c "\$wanted")"
$forebay repair /dev/nvme0n2 --adopt --yes
start /dev/nvme0n2
for i in \$(seq 300); do [ -S /run/forebay.sock ] && break; sleep 0.1; done
is "until it is wanted" value "\$($forebay --socket /run/forebay.sock get orders 1)"
kill \$pid && wait \$pid
is "the original is what it was" 1 "\$($forebay inspect /dev/nvme0n1 | grep -c 'on the drive with serial FOREBAY-TESTBED, namespace 1')"
END
}

# The drive is told of segments that are given up: behind some header that says free there are zeros, which this drive
# answers for what was deallocated; and after a kill everything is there.
guest_deallocation() {
    in_guest "deallocation" --size 48 <<END
$prelude
$forebay format /dev/nvme0n2 --segment-bytes 1MiB --shards 1
cat >/run/forebay.toml <<TOML
device.path = "/dev/nvme0n2"
device.tier = "passthrough"
rings.socket = "/run/forebay.sock"
wal.frame_bytes_max = "64KiB"
limits.value_bytes_max = "256KiB"
limits.memory_bytes_max = "64MiB"
TOML
printf '[over]\nrw=randwrite\nspace=data\ndurability=strict\nkeys=100\nvalue_size=16k\niodepth=8\nnumber_ios=6000\nverify=crc32c\n' >/run/over.fio
start() {
    rm -f /run/forebay.sock
    $forebay --config /run/forebay.toml serve 2>/run/log & pid=\$!
    for i in \$(seq 300); do [ -S /run/forebay.sock ] && break; sleep 0.1; done
}
counter() { $forebay --socket /run/forebay.sock stats | awk -v name="\$1" '\$1 == name { print \$2 }'; }
zeroed() {
    local segment at
    for segment in \$(seq 0 46); do
        at=\$((262144 + segment * 1048576))
        if [ "\$(od -An -tu4 -j\$((at + 44)) -N4 /dev/nvme0n2 | tr -d ' ')" = 2 ] &&
            [ "\$(dd if=/dev/nvme0n2 bs=4096 skip=\$((at / 4096 + 1)) count=255 status=none | tr -d '\0' | wc -c)" = 0 ]; then
            echo yes
        fi
    done
}
start
is "the start says so" 1 "\$(grep -c 'deallocates what is given up' /run/log)"
is "a load over the same keys" 1 "\$($forebay --socket /run/forebay.sock load /run/over.fio | grep -c ' 0 wrong')"
is "the drive was told" yes "\$([ "\$(counter deallocated_bytes)" -gt 1000000 ] && echo yes)"
is "and did not refuse" 0 "\$(counter deallocate_failures)"
kill -9 \$pid && wait \$pid
is "behind a header that says free there is nothing" yes "\$(zeroed | sort -u)"
start
is "all is there after a kill" 100 "\$($forebay --socket /run/forebay.sock scan data --keys-only | wc -l)"
kill \$pid && wait \$pid
is "and verified" 0 "\$($forebay verify /dev/nvme0n2 >/dev/null 2>&1; echo \$?)"
echo 'device.deallocate = false' >>/run/forebay.toml
start
is "switched off" 1 "\$(grep -c 'deallocates nothing' /run/log)"
kill \$pid && wait \$pid
END
}

# Who may not ask the drive of its health sees its temperature, and is told why there is no more.
guest_health() {
    in_guest "health" <<END
$prelude
ls /sys/class/nvme/nvme0/hwmon*/temp1_input /sys/class/nvme/nvme0/device/hwmon/hwmon*/temp1_input 2>/dev/null | grep -q . ||
    { echo "no monitor here" && exit; }
mkdir /run/user && chown nobody /run/user /dev/nvme0n2 /dev/ng0n2
as() { setpriv --reuid nobody --clear-groups "\$@"; }
start() { \$as $forebay serve --device /dev/nvme0n2 --socket /run/user/socket 2>/run/log & pid=\$!; }
told() { for i in \$(seq 300); do $forebay --socket /run/user/socket stats 2>/dev/null | grep -E "\$1" && return; sleep 0.1; done; }
$forebay format /dev/nvme0n2 --segment-bytes 16MiB || exit
celsius=\$((\$(cat /sys/class/nvme/nvme0/hwmon*/temp1_input /sys/class/nvme/nvme0/device/hwmon/hwmon*/temp1_input 2>/dev/null | head -n 1) / 1000))
as='setpriv --reuid nobody --clear-groups'; start
is "the temperature, for everybody" 1 "\$(told "^drive temperature +(\$celsius|\$((celsius + 1))) C" | wc -l)"
is "the rest, and who may ask" 1 "\$(told '^drive spare +not known: the kernel lets only root ask' | wc -l)"
is "the log says so once" 1 "\$(grep -c 'only the temperature is known (Permission denied' /run/log)"
is "doctor says it too" 1 "\$(as $forebay doctor | grep -c '/dev/nvme0n2: .* C (its monitor)')"
kill \$pid && wait \$pid
as=''; start
is "root sees all of it" 1 "\$(told '^drive spare +[0-9]+ %' | wc -l)"
kill \$pid && wait \$pid
END
    if grep -qx 'no monitor here' "$scratch/output"; then skip 5 "health: the guest's kernel has no CONFIG_NVME_HWMON"; fi
}

# The kill test on the guest's drive, by every tier, without and with polled queues. A kill is not a power cut: what a
# tier completes counts, and so does what it recovers.
guest_tiers() {
    local test=$1 queues polled best
    for queues in 0 2; do
        # The guest's kernel is older than 6.6: there passthrough does not poll by itself, and says why (docs/operations.md).
        polled=interrupts best='passthrough (.*, interrupts)'
        if [ "$queues" = 2 ]; then polled=IOPOLL best+='.*no passthrough with IOPOLL.*no block with IOPOLL'; fi
        in_guest "tiers, $polled" --poll-queues "$queues" --size 96 <<END
$prelude
is "the best tier is found" 1 "\$($forebay doctor --device /dev/nvme0n2 | grep -c '$best')"
for tier in passthrough uring blocking; do
    FOREBAY_TEST_DEVICE=/dev/nvme0n2 FOREBAY_TEST_TIER=\$tier FOREBAY_KILLS=$kills timeout 100 $test --exact --nocapture \\
        kill::what_was_acknowledged_survives_kill_9
    is "kills, \$tier, $polled" 0 \$?
done
END
    done
}

if why=$(guest_missing nbdkit=nbdkit nvme=nvme-cli); then
    skip 6 "guests: $why"
else
    guest_drives
    guest_power_cuts
    guest_hot_removal
    guest_host
    test=''
    for file in "$setup"/../target/debug/deps/end_to_end-*; do
        if [ -x "$file" ] && [[ $file != *.d ]] && { [ -z "$test" ] || [ "$file" -nt "$test" ]; }; then test=$file; fi
    done
    if [ -x "$forebay" ] && [ -n "$test" ]; then
        guest_tiers "$(realpath "$test")"
    else
        skip 8 "tiers in a guest: no binaries; cargo build --release && cargo test --no-run"
    fi
    if [ -x "$forebay" ]; then guest_forebay && guest_own_drive && guest_deallocation && guest_health; else skip 4 "forebay in a guest: no binary at $forebay; cargo build --release"; fi
fi
