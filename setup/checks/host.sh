# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# host.sh on made-up machines: what it refuses, what it prints, and that reset undoes config.

bdf=0000:01:00.0
uuid=01234567-89ab-cdef-0123-456789abcdef

# machine: a host with one NVMe controller of one empty namespace, in an IOMMU group of its own, on one NUMA node.
machine() {
    tree=$scratch/machine
    rm -rf "$tree"
    local pci=$tree/sys/bus/pci block=$tree/sys/class/block/nvme0n1 node=$tree/sys/devices/system/node/node0
    mkdir -p "$pci/devices/$bdf/nvme/nvme0/nvme0n1" "$pci/drivers/nvme" "$pci/drivers/vfio-pci" "$block/holders" \
        "$block/queue" "$tree/sys/kernel/iommu_groups/7/devices" "$node/hugepages/hugepages-2048kB" \
        "$tree/proc/sys/kernel/random" "$tree/proc/sys/vm" "$tree/proc/self" "$tree/dev/vfio" "$tree/etc"
    echo 0x010802 >"$pci/devices/$bdf/class"
    : >"$pci/devices/$bdf/driver_override"
    : >"$pci/drivers_probe"
    : >"$pci/drivers/nvme/unbind"
    ln -s ../../drivers/nvme "$pci/devices/$bdf/driver"
    ln -s ../../../../kernel/iommu_groups/7 "$pci/devices/$bdf/iommu_group"
    ln -s "../../../../bus/pci/devices/$bdf" "$tree/sys/kernel/iommu_groups/7/devices/$bdf"
    echo 259:1 >"$block/dev"
    echo nqn.test-1 >"$block/wwid"
    echo 8192 >"$block/size"
    echo '[mq-deadline] none' >"$block/queue/scheduler"
    echo 1023 >"$block/queue/nr_requests"
    echo 0 >"$node/hugepages/hugepages-2048kB/nr_hugepages"
    echo boot-1 >"$tree/proc/sys/kernel/random/boot_id"
    mkdir -p "$tree/sys/devices/system/cpu/cpu"{0,1}/power && echo 0-3 >"$tree/sys/devices/system/cpu/possible"
    echo 0 | tee "$tree/sys/devices/system/cpu/cpu"{0,1}/power/pm_qos_resume_latency_us >/dev/null
    echo 0 >"$tree/proc/sys/vm/compact_memory"
    echo 'MemAvailable: 4194304 kB' >"$tree/proc/meminfo"
    echo '22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw' >"$tree/proc/self/mountinfo"
    echo 'Filename Type Size Used Priority' >"$tree/proc/swaps"
    truncate -s 4M "$tree/dev/nvme0n1"
    : >"$tree/dev/vfio/7"
}

# second_drive: one more namespace of the machine's, on a controller that vfio-pci does not get.
second_drive() {
    cp -r "$tree/sys/class/block/nvme0n1" "$tree/sys/class/block/nvme1n1"
    echo 259:3 >"$tree/sys/class/block/nvme1n1/dev"
    echo nqn.test-2 >"$tree/sys/class/block/nvme1n1/wwid"
    truncate -s 4M "$tree/dev/nvme1n1"
}

host() { env FOREBAY_HOST_ROOT="$tree" "$setup/host.sh" "$@"; }

# content: all of the tree, for comparing; the journal's empty directory does not count.
content() { (cd "$tree" && find . -not -path './var*' -type f -exec sha256sum {} + | sort -k2; find . -type l | sort); }

# refused PATTERN NAME OPTIONS...: exit code 1, and nothing was changed.
refused() {
    local before pattern=$1 name=$2
    shift 2
    before=$(content)
    expect 1 "$pattern" "$name" host config "$@"
    same "$name: nothing was changed" "$before" "$(content)"
}

# superblock [AT [UUID]]
superblock() {
    local named=${2:-$uuid}
    python3 -c 'import sys; sys.stdout.buffer.write(b"FBSUPER1" + bytes(8) + bytes.fromhex(sys.argv[1]))' "${named//-/}" |
        dd of="$tree/dev/nvme0n1" bs=1 seek="${1:-65536}" conv=notrunc status=none
}

machine
expect 2 'only what it is asked' "config that asks for nothing" host config
expect 2 'needs a value' "--bind without an address" host config --bind
expect 2 'one full PCI address' "--bind of everything" host config --bind all
expect 2 'one full PCI address' "--bind of half an address" host config --bind 01:00.0
expect 2 'whole number' "poll queues that are no number" host config --poll-queues x
expect 2 'goes with --device' "--nr-requests alone" host config --nr-requests 4 --poll-queues 1
for count in 0 3 65536; do
    expect 2 '4 to 65535' "--nr-requests $count" host config --nr-requests $count --device /dev/nvme0n1
done
expect 2 'whole number' "--awake of what is no core" host config --awake all
refused 'there is no such core; cores: 0-3' "--awake of a core that is not there" --awake 7
rm "$tree/sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us"
refused 'takes no wish for it' "--awake where the kernel cannot" --awake 0 --awake 1
machine
expect 2 'has 4 cores' "more polled queues than cores" host config --poll-queues 5
expect 2 'names node 0 twice' "two numbers of hugepages for a node" host config --hugepages 8 --hugepages 0=16
expect 2 'takes a UUID, .*not .01234567' "--namespace that is no UUID" host config --bind "$bdf" --namespace 01234567
expect 2 'go with --bind or --device' "--namespace without a drive" host config --poll-queues 2 --namespace "$uuid"
expect 2 'go with --bind or --device' "--force without a drive" host config --poll-queues 2 --force
for device in nvme0n1 ng0n1; do
    expect 2 "--bind $bdf takes /dev/nvme0n1 away .* name one" "--bind and --device of one drive, $device" \
        host config --bind "$bdf" --device "/dev/$device"
done
expect 2 'a whole NVMe namespace' "--device that is no NVMe" host config --device /dev/sda
expect 2 'goes with status' "--json with reset" host reset --json
refused 'no PCI device 0000:02' "a controller that is not there" --bind 0000:02:00.0
refused 'there is no user' "a user that is not there" --user forebay-nobody
refused 'node 3 has no hugepages' "a node that is not there" --hugepages 3=10
refused 'must stay' "hugepages beyond the memory" --hugepages 99999
expect 2 'takes NODE=COUNT' "hugepages with a zero in front" host config --hugepages 0=08 --bind 9999:99:99.9
expect 2 'takes NODE=COUNT' "more hugepages than there are numbers" host config --hugepages 0=5000000000000000000
expect 2 'is about all of it' "reset of a part" host reset --bind "$bdf"
mkdir -p "$tree/sys/devices/system/node/node1"
refused 'there are 2 NUMA nodes' "hugepages without a node where there are two" --hugepages 10
expect 0 "^ok +NVMe +$bdf: driver nvme" "status" host status
expect 0 '^\{"check": "NVMe", "state": "ok"' "status as JSON" host status --json

machine && echo 0x020000 >"$tree/sys/bus/pci/devices/$bdf/class"
refused 'is no NVMe controller' "a network card" --bind "$bdf"
machine && rm "$tree/sys/bus/pci/devices/$bdf/iommu_group"
refused 'no IOMMU group' "no IOMMU" --bind "$bdf"
machine && mkdir "$tree/sys/bus/pci/devices/0000:02:00.0" "$tree/sys/bus/pci/drivers/e1000"
echo 0x020000 >"$tree/sys/bus/pci/devices/0000:02:00.0/class"
ln -s ../../drivers/e1000 "$tree/sys/bus/pci/devices/0000:02:00.0/driver"
ln -s ../x "$tree/sys/kernel/iommu_groups/7/devices/0000:02:00.0"
refused 'shares its IOMMU group with 0000:02:00.0' "a shared IOMMU group" --bind "$bdf"
machine && rm "$tree/sys/bus/pci/devices/$bdf/driver"
refused 'cannot be looked at' "a controller without driver" --bind "$bdf"

# What is in use is refused by force too, for every way to name it.
for how in "--bind $bdf" "--device /dev/nvme0n1"; do
    read -r -a options <<<"$how --force"
    machine && echo '23 1 259:1 / /srv rw - xfs /dev/x rw' >>"$tree/proc/self/mountinfo"
    refused 'nvme0n1 is mounted on /srv' "$how, mounted" "${options[@]}"
    machine && echo '23 1 0:44 / /b rw - btrfs /dev/nvme0n1 rw' >>"$tree/proc/self/mountinfo"
    refused 'nvme0n1 is mounted on /b' "$how, mounted as Btrfs" "${options[@]}"
    machine && mkdir "$tree/sys/class/block/nvme0n1/nvme0n1p1" "$tree/sys/class/block/nvme0n1p1"
    echo 1 >"$tree/sys/class/block/nvme0n1/nvme0n1p1/partition"
    echo 259:2 >"$tree/sys/class/block/nvme0n1p1/dev"
    refused 'partitions: nvme0n1p1' "$how, partitions" "${options[@]:0:2}"
    echo '23 1 259:2 / /p rw - xfs /dev/x rw' >>"$tree/proc/self/mountinfo"
    refused 'nvme0n1p1 is mounted on /p' "$how, a partition mounted" "${options[@]}"
    machine && echo '/dev/nvme0n1 partition 1 0 -2' >>"$tree/proc/swaps"
    refused 'is swap space' "$how, swap" "${options[@]}"
    machine && : >"$tree/sys/class/block/nvme0n1/holders/dm-3"
    refused 'held by dm-3' "$how, held" "${options[@]}"
    machine && mkdir -p "$tree/proc/4711/fd" && echo other >"$tree/proc/4711/comm"
    ln -s /dev/nvme0n1 "$tree/proc/4711/fd/5"
    refused 'open in process 4711 \(other\)' "$how, open" "${options[@]}"
    machine && mkdir -p "$tree/proc/4711" && echo '23 1 259:1 / /c rw - xfs /dev/x rw' >"$tree/proc/4711/mountinfo"
    refused 'nvme0n1 is mounted on /c' "$how, mounted in a container" "${options[@]}"
    machine && mkdir -p "$tree/sys/fs/btrfs/uuid/devices/nvme0n1"
    refused 'part of a mounted Btrfs' "$how, the second device of a Btrfs" "${options[@]}"
    machine && mkdir -p "$tree/sys/class/block/loop3/loop" && echo /dev/nvme0n1 >"$tree/sys/class/block/loop3/loop/backing_file"
    refused 'is behind loop3' "$how, behind a loop device" "${options[@]}"
done

# Somebody whom nothing names has taken it exclusively: a mount that the made-up machine knows nothing of.
machine && mkdir "$scratch/held"
if truncate -s 4M "$scratch/held.img" && mkfs.ext4 -q "$scratch/held.img" 2>/dev/null && node=$(losetup --find --show "$scratch/held.img" 2>/dev/null); then
    if mount "$node" "$scratch/held" 2>/dev/null; then
        rm "$tree/dev/nvme0n1" && ln -s "$node" "$tree/dev/nvme0n1"
        expect 1 'held by something that has no name here' "held by nobody knows whom" host config --bind "$bdf" --force
        umount "$scratch/held"
    else
        skip 1 "nothing can be mounted here"
    fi
    losetup --detach "$node"
else
    skip 1 "no loop device"
fi

machine && superblock
refused "Forebay namespace, $uuid; --force .* or --namespace" "a Forebay namespace" --bind "$bdf"
expect 0 'echo vfio-pci >' "its UUID in capitals" host config --bind "$bdf" --namespace "${uuid^^}" --dry-run
refused "Forebay namespace, $uuid" "another Forebay namespace" --bind "$bdf" --namespace "${uuid/0/1}"
expect 0 'echo vfio-pci >' "the Forebay namespace expected" host config --bind "$bdf" --namespace "$uuid" --dry-run
machine && superblock 4063232 # 128 KiB before the end
refused "Forebay namespace, $uuid; --force" "a Forebay namespace whose front is gone" --bind "$bdf"
machine && superblock && superblock 3997696 "${uuid/0/1}"
refused "Forebay namespace, $uuid ${uuid/0/1};" "superblocks of two namespaces" --bind "$bdf" --namespace "$uuid"
machine && echo 0 >"$tree/sys/class/block/nvme0n1/size" && : >"$tree/dev/nvme0n1"
refused 'cannot read' "a namespace that the kernel cannot read" --bind "$bdf"
machine && mkdir "$tree/sys/bus/pci/devices/$bdf/nvme/nvme0/ng0n2"
refused 'namespace without a block device, nvme0n2' "a namespace with a generic device alone" --bind "$bdf"
expect 0 'echo vfio-pci >' "and by force" host config --bind "$bdf" --force --dry-run
machine && echo x | dd of="$tree/dev/nvme0n1" bs=1 seek=500000 conv=notrunc status=none
refused 'unknown data in its first 1 MiB' "unknown data" --bind "$bdf"
expect 0 'echo vfio-pci >' "unknown data, by force" host config --bind "$bdf" --force --dry-run
if command -v mkswap >/dev/null; then
    machine && mkswap "$tree/dev/nvme0n1" >/dev/null 2>&1
    refused 'known signature: .*swap' "a signature" --bind "$bdf"
else
    skip 2 "no mkswap"
fi

# A dry run prints every change and makes none.
everything=(--hugepages 8 --poll-queues 2 --device /dev/nvme1n1 --nr-requests 64 --user root --bind "$bdf")
machine && second_drive && before=$(content)
expect 0 'echo 8 > .*nr_hugepages' "dry run: hugepages" host config "${everything[@]}" --dry-run
cp "$scratch/output" "$scratch/dry_run"
for line in 'mount -t hugetlbfs' 'write /etc/security/limits.d' 'options nvme poll_queues=2' 'scheduler$' 'nr_requests$' \
    'ATTR\{wwid\}=="nqn.test-2"' "driver_override" "echo $bdf > .*unbind" "echo $bdf > .*drivers_probe" '/dev/vfio/7'; do
    expect 0 "^\+ .*$line" "dry run: $line" cat "$scratch/dry_run"
done
same "dry run: nothing was changed" "$before" "$(content)$(ls "$tree/var" 2>/dev/null)"

# A hugetlbfs for everybody, where none is mounted and no user has one.
machine
expect 0 '^\+ mkdir /dev/hugepages$' "hugepages: the directory" host config --hugepages 8 --dry-run
cp "$scratch/output" "$scratch/dry_run"
expect 0 '^\+ mount -t hugetlbfs -o pagesize=2M hugetlbfs /dev/hugepages$' "hugepages: the mount" cat "$scratch/dry_run"
mkdir "$tree/dev/hugepages"
expect 0 '^\+ mount -t hugetlbfs' "hugepages: the directory is there" host config --hugepages 8
same "hugepages: and stays" "mount/dev/hugepages0" "$(grep ^mount "$tree/var/lib/forebay/host.journal" | cut -f 1,3,4 | tr -d '\t')"
echo '30 1 0:30 / /dev/hugepages rw - hugetlbfs hugetlbfs rw' >>"$tree/proc/self/mountinfo"
expect 0 '/dev/hugepages is mounted already' "hugepages: mounted already" host config --hugepages 8
expect 0 '^\+ umount /dev/hugepages$' "hugepages: reset" host reset
same "hugepages: reset leaves a directory of others" '' "$(grep rmdir "$scratch/output")"
machine && echo '30 1 0:30 / /dev/hugepages rw - hugetlbfs hugetlbfs rw' >>"$tree/proc/self/mountinfo"
expect 0 'is mounted already' "hugepages: a mount of others" host config --hugepages 8
expect 0 '' "hugepages: a mount of others, reset" host reset
same "hugepages: reset leaves a mount of others" '' "$(grep umount "$scratch/output")"

# Config, again, and reset.
machine && before=$(content)
some=(--hugepages 8 --poll-queues 2 --device /dev/nvme0n1 --nr-requests 64)
expect 0 'asked for 8 hugepages of 2 MiB, got 8' "config" host config "${some[@]}"
after=$(content) lines=$(wc -l <"$tree/var/lib/forebay/host.journal")
same "config changes something" 1 "$([ "$before" != "$after" ] && echo 1)"
expect 0 'is none already' "config again" host config "${some[@]}"
same "config again changes nothing" "$after$lines" "$(content)$(wc -l <"$tree/var/lib/forebay/host.journal")"
expect 0 'config asked for 8' "status tells what was asked" host status
expect 0 'rm .*forebay.conf' "reset, dry run" host reset --dry-run
same "reset, dry run: nothing was changed" "$after" "$(content)"
expect 0 'rm .*host.journal' "reset" host reset
# The tree's file holds what was written, a kernel would show its list again; memory was put together and stays so.
same "reset undoes config" "$(grep -vE 'scheduler|compact' <<<"$before")" "$(content | grep -vE 'scheduler|compact')"
same "reset gives the scheduler back" mq-deadline "$(cat "$tree/sys/class/block/nvme0n1/queue/scheduler")"
expect 0 'nothing to undo' "reset again" host reset

# Cores that do not halt.
machine && before=$(content)
expect 0 'echo n/a > /sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us' "a core is kept awake" host config --awake 1
same "and it alone" "0n/a" "$(cat "$tree/sys/devices/system/cpu/cpu"{0,1}/power/pm_qos_resume_latency_us | tr -d '\n')"
expect 0 'is n/a already' "a core is kept awake already" host config --awake 1
expect 0 '^ok +cores kept awake +1: ' "status names cores that are kept awake" host status
expect 0 '' "reset of a core" host reset
same "reset lets it halt" "$before" "$(content)"
expect 0 '' "status without such cores" host status
same "names none" '' "$(grep 'kept awake' "$scratch/output")"

# What somebody else changed since is theirs.
machine && expect 0 '' "config" host config "${some[@]}"
echo 99 >"$tree/sys/class/block/nvme0n1/queue/nr_requests"
echo '# mine' >>"$tree/etc/modprobe.d/forebay.conf"
expect 0 'is 99, not the 64 .*left alone' "reset leaves a setting of others" host reset
same "and its value" 99 "$(cat "$tree/sys/class/block/nvme0n1/queue/nr_requests")"
expect 0 '# mine' "reset leaves an edited file" cat "$tree/etc/modprobe.d/forebay.conf"
refused 'not of this script' "a file of others is not overwritten" --poll-queues 3
machine && expect 0 '' "config" host config "${some[@]}"
echo boot-2 >"$tree/proc/sys/kernel/random/boot_id"
expect 0 'rm ' "reset after a reboot" host reset
same "what the reboot undid is left alone" 8 "$(cat "$(find "$tree" -name nr_hugepages)")"

# A second config adds to the first, in any order, and reset gives all of it back.
rules() { cat "$tree/etc/udev/rules.d/90-forebay.rules"; }
machine && second_drive && before=$(content)
expect 0 '' "first config" host config --user root --device /dev/nvme0n1
expect 0 '' "second config, of another user and drive" host config --user nobody --device /dev/nvme1n1 --poll-queues 2
same "both drives have a rule" "nqn.test-1 root nqn.test-2 nobody " \
    "$(rules | sed -E 's/.*wwid.=="([^"]*)".*OWNER="([^"]*)"/\1 \2/' | tr '\n' ' ')"
same "both users have their limit" "nobody - memlock unlimited root - memlock unlimited " \
    "$(tr '\n' ' ' <"$tree/etc/security/limits.d/90-forebay.conf")"
after=$(content)
expect 0 '90-forebay.rules is so already' "the first again" host config --user root --device /dev/nvme0n1
expect 0 '90-forebay.rules is so already' "the first without its user" host config --device /dev/nvme0n1
same "changes nothing" "$after" "$(content)"
expect 0 '' "another user for the first drive" host config --user nobody --device /dev/nvme0n1
same "replaces its rule" "2 0" "$(rules | grep -c nobody) $(rules | grep -c root)"
expect 0 '' "reset of all" host reset
same "nothing is left of any" "$(grep -vE 'scheduler|compact' <<<"$before")" "$(content | grep -vE 'scheduler|compact')"
expect 0 'nothing to undo' "and forgotten" host reset
# A kill between the note of a new text and its writing: the file has its old text, which is ours too.
machine && expect 0 '' "config of a user" host config --user root
printf 'file\t-\t%s\t%s\n' "$tree/etc/security/limits.d/90-forebay.conf" 0000 >>"$tree/var/lib/forebay/host.journal"
expect 0 'rm .*90-forebay.conf' "reset after a kill in between" host reset
