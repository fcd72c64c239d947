#!/usr/bin/env bash
# setup/host.sh status [--json] | config OPTIONS | reset: prepares a host for Forebay, says what it is like, undoes it.
#
#   status             what there is, and what to do about what is missing. Changes nothing; needs no root
#       --json             an object a line
#   config             makes what is asked for and nothing else; prints every change; asking again changes nothing, and
#                      asking for more adds to what was asked before. Everything is checked before the first change.
#                      Needs at least one of:
#       --hugepages NODE=COUNT   pages of 2 MiB on a NUMA node; repeat for more nodes. COUNT alone when there is one node.
#                          And a hugetlbfs at /dev/hugepages, where none is mounted there and no user is named
#       --bind BDF         gives this NVMe controller (as 0000:01:00.0) to vfio-pci, for user-space drivers; repeatable.
#                          It and all its namespaces vanish from the kernel
#       --device PATH      prepares this namespace (as /dev/nvme0n2) for the tiers of the kernel: scheduler none, and
#                          with --user its nodes belong to that user; repeatable
#       --nr-requests N    with --device: requests in the kernel's queue, 4 or more
#       --user NAME        the service's user: gets the vfio groups and devices named here, a hugetlbfs at
#                          /dev/hugepages-NAME, and no limit on locked memory
#       --poll-queues N    polled queues of the kernel's nvme driver, from its next start on; at most one a core
#       --awake CORE       this core does not halt when it has nothing to run: for a reactor's, which polls for ever and
#                          is blocked in a file's flushes alone; repeatable
#     and takes:
#       --namespace UUID   the Forebay namespace with this UUID is expected on a drive named here; repeatable
#       --force            take drives whatever they hold. Nothing is erased. One in use is refused all the same
#   reset              undoes what config did, and nothing else
#
#   --dry-run            prints every change instead of making it
#
# A drive is never searched for. Refused are drives that are mounted, held or open, and, without --force, those with
# partitions, a known signature, unknown data, or a Forebay namespace that was not named.
# What config changed stands in /var/lib/forebay/host.journal. Hugepages, drivers, owners and schedulers last until the
# next boot: run config again then (forebay-host.service does).
# Exit codes: 0 done; 1 refused or failed; 2 the command line was not understood.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=guard.sh
. "$here/guard.sh"
# shellcheck source-path=SCRIPTDIR source=journal.sh
. "$here/journal.sh"
# shellcheck source-path=SCRIPTDIR source=status.sh
. "$here/status.sh"

hugepages=() controllers=() devices=() uuids=() cores=() user='' poll_queues='' nr_requests='' force=0 json=0
asked_too_much=0
# For guard.sh: --namespace is an option here.
# shellcheck disable=SC2034
expects_uuids=1
# What hugepages must leave of the memory.
spare_mib=256
# A number of hugepages: of few enough digits for every sum, and without a zero in front, which bash takes for octal.
count_form='(0|[1-9][0-9]{0,8})'
checked=0

parse() {
    local value
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry_run=1 ;;
            --help | -h) print_help && exit ;;
            --json) json=1 ;;
            --hugepages) value=$(value_of "$@"); hugepages+=("$value"); shift ;;
            --bind) value=$(value_of "$@"); controllers+=("$value"); shift ;;
            --device) value=$(value_of "$@"); devices+=("$value"); shift ;;
            --namespace) value=$(value_of "$@"); uuids+=("${value,,}"); shift ;;
            --user) user=$(value_of "$@"); shift ;;
            --poll-queues) poll_queues=$(number_of "$@"); shift ;;
            --awake) value=$(number_of "$@"); cores+=("$value"); shift ;;
            --nr-requests) nr_requests=$(number_of "$@"); shift ;;
            --force) force=1 ;;
            *) usage_error "unknown option '$1'" ;;
        esac
        shift
    done
}

awake_path() { printf '%s/sys/devices/system/cpu/cpu%s/power/pm_qos_resume_latency_us' "$root" "$1"; }
pages_path() { printf '%s/sys/devices/system/node/node%s/hugepages/hugepages-2048kB/nr_hugepages' "$root" "$1"; }

# --- Checks: all of them come before the first change. ---

# Turns a lone COUNT into NODE=COUNT where that is no guess.
check_hugepages() {
    local index nodes more=0 available named=' '
    nodes=("$root"/sys/devices/system/node/node[0-9]*)
    for index in "${!hugepages[@]}"; do
        if [[ ${hugepages[index]} =~ ^$count_form$ ]]; then
            [ ${#nodes[@]} = 1 ] || die "--hugepages ${hugepages[index]}: there are ${#nodes[@]} NUMA nodes; say NODE=COUNT"
            hugepages[index]="${nodes[0]##*/node}=${hugepages[index]}"
        fi
        [[ ${hugepages[index]} =~ ^(0|[1-9][0-9]{0,3})=$count_form$ ]] ||
            usage_error "--hugepages takes NODE=COUNT, not '${hugepages[index]}'"
        [ -e "$(pages_path "${hugepages[index]%=*}")" ] ||
            die "NUMA node ${hugepages[index]%=*} has no hugepages of 2 MiB; nodes: ${nodes[*]##*/node}"
        case $named in *" ${hugepages[index]%=*} "*)
            usage_error "--hugepages names node ${hugepages[index]%=*} twice; say once how many it is to have"
            ;;
        esac
        named+="${hugepages[index]%=*} "
        more=$((more + ${hugepages[index]#*=} - $(cat "$(pages_path "${hugepages[index]%=*}")")))
    done
    # A host whose last memory went into hugepages stands still.
    available=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' "$root/proc/meminfo")
    if [ $((more * 2)) -gt $((available - spare_mib)) ] && [ "$more" -gt 0 ]; then
        die "--hugepages: $((more * 2)) MiB more are asked for, $available MiB are available and $spare_mib MiB of them" \
            "must stay; ask for less. Nothing was changed"
    fi
}

# namespaces_of BDF: the block devices that a controller's namespaces have, or should have. With multipath its own are
# hidden behind their subsystem's; one that the block layer cannot use has a generic device alone.
namespaces_of() {
    local path
    for path in "$root/sys/bus/pci/devices/$1"/nvme/nvme*/{nvme*n*,ng*n*}; do
        if [ -e "$path" ]; then basename "$path" | sed -E 's/^(nvme[0-9]+)c[0-9]+(n[0-9]+)$/\1\2/; s/^ng/nvme/'; fi
    done | sort -u
}

# queues_of NAME: where its requests really queue: with multipath, in the hidden device of each path.
queues_of() {
    local path found=0
    for path in "$(sysfs_of "${1%n*}")"c*n"${1##*n}"; do
        if [ -e "$path/queue" ]; then found=1 && echo "$path/queue"; fi
    done
    if [ "$found" = 0 ]; then echo "$(sysfs_of "$1")/queue"; fi
}

check_controller() {
    local bdf=$1 device=$root/sys/bus/pci/devices/$1 driver other name
    [[ $bdf =~ ^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$ ]] ||
        usage_error "--bind takes one full PCI address, as 0000:01:00.0, not '$bdf'"
    [ -e "$device" ] || die "there is no PCI device $bdf; $0 status lists the NVMe controllers"
    case $(cat "$device/class") in
        0x010802) ;;
        *) die "$bdf is no NVMe controller (class $(cat "$device/class"))" ;;
    esac
    driver=$(driver_of "$bdf")
    if [ "$driver" = vfio-pci ]; then return; fi
    [ -e "$device/iommu_group" ] ||
        die "$bdf is in no IOMMU group; enable the IOMMU in the firmware and boot with intel_iommu=on or amd_iommu=on"
    for other in "$device"/iommu_group/devices/*; do
        other=$(basename "$other")
        case $(cat "$root/sys/bus/pci/devices/$other/class") in 0x0604*) continue ;; esac
        case " ${controllers[*]} $(driver_of "$other") " in *" $other "* | *' vfio-pci '* | *' none '*) continue ;; esac
        die "$bdf shares its IOMMU group with $other (driver $(driver_of "$other")): both go, or none; put it in another slot"
    done
    if [ "$driver" != nvme ] && [ "$force" = 0 ]; then
        die "$bdf has driver $driver, so its contents cannot be looked at; give it to nvme first, or --force"
    fi
    for name in $(namespaces_of "$bdf"); do
        if [ -e "$(sysfs_of "$name")" ]; then
            guard "$name" "$force" "${uuids[@]}"
        elif [ "$force" = 0 ]; then
            die "$bdf has a namespace without a block device, $name, so its contents cannot be looked at; --force if it" \
                "may be taken all the same. Nothing was changed"
        fi
    done
}

# Replaces each path by the kernel's name of the namespace.
check_devices() {
    local index name
    for index in "${!devices[@]}"; do
        name=$(basename "$(readlink -m "$root${devices[index]}")")
        [[ $name =~ ^nvme[0-9]+n[0-9]+$ ]] || usage_error "--device takes a whole NVMe namespace, as /dev/nvme0n2, not '${devices[index]}'"
        [ -e "$(sysfs_of "$name")" ] || die "there is no ${devices[index]}; $0 status lists the NVMe namespaces"
        guard "$name" "$force" "${uuids[@]}"
        devices[index]=$name
    done
}

# The kernel lets the nvme driver start with one polled queue a core at most: with more there would be no drive at all.
check_poll_queues() {
    local cores
    cores=$(text "$root/sys/devices/system/cpu/possible")
    cores=$((${cores##*[-,]} + 1))
    if [ -n "$poll_queues" ] && [ "$poll_queues" -gt "$cores" ]; then
        usage_error "--poll-queues $poll_queues: this machine has $cores cores, and the nvme driver does not start with more queues"
    fi
}

check_cores() {
    local core
    for core in "${cores[@]}"; do
        [ -e "$root/sys/devices/system/cpu/cpu$core" ] ||
            die "--awake $core: there is no such core; cores: $(text "$root/sys/devices/system/cpu/possible")"
        [ -e "$(awake_path "$core")" ] ||
            die "--awake $core: this kernel takes no wish for it (no $(awake_path "$core")); boot with idle=poll instead"
    done
}

# What one option says and another denies.
check_together() {
    local bdf name device
    if [ ${#controllers[@]} = 0 ] && [ ${#devices[@]} = 0 ] && [ "${#uuids[@]}$force" != 00 ]; then
        usage_error "--namespace and --force go with --bind or --device"
    fi
    for name in "${uuids[@]}"; do
        [[ $name =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] ||
            usage_error "--namespace takes a UUID, as 01234567-89ab-cdef-0123-456789abcdef, not '$name'; forebay inspect shows it"
    done
    for bdf in "${controllers[@]}"; do
        for name in $(namespaces_of "$bdf"); do
            for device in "${devices[@]}"; do
                device=$(basename "$(readlink -m "$root$device")")
                if [ "${device/#ng/nvme}" = "$name" ]; then
                    usage_error "--bind $bdf takes /dev/$name away from the kernel, and --device $name leaves it there; name one of them"
                fi
            done
        done
    done
}

check_all() {
    local bdf
    if [ $((${#hugepages[@]} + ${#controllers[@]} + ${#devices[@]} + ${#cores[@]})) = 0 ] && [ -z "$user$poll_queues" ]; then
        usage_error "config does only what it is asked for: name hugepages, controllers, devices, cores, a user or poll queues"
    fi
    if [ -n "$nr_requests" ] && [ ${#devices[@]} = 0 ]; then usage_error "--nr-requests goes with --device"; fi
    if [ -n "$nr_requests" ] && { [ "$nr_requests" -lt 4 ] || [ "$nr_requests" -gt 65535 ]; }; then
        usage_error "--nr-requests is 4 to 65535, not $nr_requests: the kernel takes no less, a queue has no more"
    fi
    check_poll_queues
    check_cores
    check_together
    if [ -n "$user" ]; then
        id -u "$user" >/dev/null 2>&1 || die "there is no user $user; make one: useradd --system --shell /usr/sbin/nologin $user"
    fi
    check_hugepages
    for bdf in "${controllers[@]}"; do check_controller "$bdf"; done
    check_devices
    checked=1
}

# --- Changes. ---

# Memory in pieces yields few hugepages: it is put together first.
reserve_hugepages() {
    local node=${1%=*} asked=${1#*=} path got
    path=$(pages_path "$node")
    if [ "$asked" -gt "$(cat "$path")" ]; then put "$root/proc/sys/vm/compact_memory" 1; fi
    set_value "$path" "$asked"
    if [ "$dry_run" = 1 ]; then return; fi
    got=$(cat "$path")
    say "  node $node: asked for $asked hugepages of 2 MiB, got $got"
    if [ "$got" -lt "$asked" ]; then
        warn "node $node: $((asked - got)) hugepages are missing; stop what uses memory and run this again, or reserve" \
            "them at boot: hugepagesz=2M hugepages=$node:$asked on the kernel's command line"
        asked_too_much=1
    fi
}

# The user's own, or where everybody looks for one.
mount_hugepages() {
    local at=/dev/hugepages options=pagesize=2M made=0
    if [ -n "$user" ]; then
        at+=-$user options+=",mode=0700,uid=$(id -u "$user"),gid=$(id -g "$user")"
    fi
    if is_mounted "$at"; then say "  $at is mounted already" && return; fi
    if [ ! -d "$root$at" ]; then made=1; fi
    note_once mount "$boot_id" "$at" "$made"
    if [ "$made" = 1 ]; then system mkdir "$at"; fi
    system mount -t hugetlbfs -o "$options" hugetlbfs "$at"
}

bind_controller() {
    local bdf=$1 old group
    old=$(driver_of "$bdf")
    if [ "$old" = vfio-pci ]; then
        say "  $bdf has driver vfio-pci already"
    else
        note driver "$boot_id" "$bdf" "$old"
        rebind "$bdf" vfio-pci
        if [ "$dry_run" = 0 ] && [ -z "$root" ] && [ "$(driver_of "$bdf")" != vfio-pci ]; then
            die "$bdf did not take vfio-pci: see dmesg; $0 reset gives it back to $old"
        fi
    fi
    group=$(basename "$(readlink -f "$root/sys/bus/pci/devices/$bdf/iommu_group")")
    if [ -z "$user" ]; then return; fi
    if [ "$dry_run" = 1 ]; then
        say "+ chown $user: /dev/vfio/$group"
    else
        if [ -z "$root" ] && command -v udevadm >/dev/null; then udevadm settle || true; fi
        set_owner "$root/dev/vfio/$group" "$user"
    fi
}

# The owner and the scheduler now, and by a rule whenever the drive comes back: a hot plug makes its nodes anew.
prepare_device() {
    local name=$1 queue
    for queue in $(queues_of "$name"); do
        set_value "$queue/scheduler" none
        if [ -n "$nr_requests" ]; then set_value "$queue/nr_requests" "$nr_requests"; fi
    done
    if [ -z "$user" ]; then return; fi
    set_owner "$root/dev/$name" "$user"
    if [ -e "$root/dev/ng${name#nvme}" ]; then set_owner "$root/dev/ng${name#nvme}" "$user"; fi
}

# udev_rules PATH: a rule a drive: those of the drives named here, and those that stand there of others. Who names no user
# leaves a drive to the one that it has.
udev_rules() {
    local name which owner rules
    rules=$(ours "$1")
    for name in "${devices[@]}"; do
        which="ATTR{wwid}==\"$(cat "$(sysfs_of "$name")/wwid")\""
        owner=$(grep -F "$which" <<<"$rules" | grep -o ', OWNER=.*') || true
        if [ -n "$user" ]; then owner=", OWNER=\"$user\""; fi
        rules=$(grep -vF "$which" <<<"$rules") || true
        rules+=$'\n'"ACTION==\"add|change\", SUBSYSTEM==\"block\", ENV{DEVTYPE}==\"disk\", $which, ATTR{queue/scheduler}=\"none\"$owner"
    done
    sort -u <<<"$rules" | grep .
}

config() {
    local each
    for each in "${hugepages[@]}"; do reserve_hugepages "$each"; done
    if [ ${#hugepages[@]} -gt 0 ]; then mount_hugepages; fi
    if [ -n "$user" ]; then
        each=$root/etc/security/limits.d/90-forebay.conf
        write_file "$each" "$({ ours "$each" && echo "$user - memlock unlimited"; } | sort -u)"
    fi
    if [ -n "$poll_queues" ]; then
        write_file "$root/etc/modprobe.d/forebay.conf" "options nvme poll_queues=$poll_queues"
        say "  takes effect when nvme starts: rebuild the initramfs (update-initramfs -u) and reboot; where nvme is" \
            "built into the kernel, boot with nvme.poll_queues=$poll_queues instead"
    fi
    if [ ${#devices[@]} -gt 0 ]; then
        for each in "${devices[@]}"; do prepare_device "$each"; done
        each=$root/etc/udev/rules.d/90-forebay.rules
        write_file "$each" "$(udev_rules "$each")"
        if command -v udevadm >/dev/null && [ -e "$root/run/udev/control" ]; then system udevadm control --reload; fi
    fi
    for each in "${cores[@]}"; do set_value "$(awake_path "$each")" n/a; done
    if [ ${#controllers[@]} -gt 0 ]; then
        if [ ! -e "$root/sys/bus/pci/drivers/vfio-pci" ]; then system modprobe vfio-pci; fi
        for each in "${controllers[@]}"; do bind_controller "$each"; done
    fi
    if [ "$asked_too_much" = 1 ]; then exit 1; fi
}

[ $# -gt 0 ] || usage_error "status, config or reset?"
action=$1
shift
case $action in
    status | config | reset) parse "$@" ;;
    --help | -h) print_help && exit ;;
    *) usage_error "unknown command '$action'" ;;
esac
if [ "$json" = 1 ] && [ "$action" != status ]; then usage_error "--json goes with status"; fi
if [ "$action" != config ] && [ -n "${hugepages[*]}${controllers[*]}${devices[*]}${uuids[*]}${cores[*]}$user$poll_queues$nr_requests" ]; then
    usage_error "$action takes no part of a host: it is about all of it"
fi
if [ "$action" = status ]; then status && exit; fi
if [ -z "$root" ]; then need_root; fi
if [ "$action" = reset ]; then undo_all && exit; fi
check_all
# Some errors of bash end a function and not the script.
if [ "$checked" = 0 ]; then die "the checks did not come to their end; nothing was changed"; fi
config
