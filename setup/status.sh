# shellcheck shell=bash
# shellcheck disable=SC2154 # what is sourced before sets it
# What a host is like, for `host.sh status`: a line a finding, in the manner of `forebay doctor`. To be sourced.

# finding NAME STATE FOUND [REMEDY]: state is ok, warning (works, but with less than it could) or missing.
finding() {
    if [ "${json:-0}" = 0 ]; then
        printf '%-8s%-20s%s%s\n' "$2" "$1" "$3" "${4:+; $4}"
        return
    fi
    local text fields=()
    for text in "$@"; do
        text=${text//\\/\\\\}
        fields+=("\"${text//\"/\\\"}\"")
    done
    printf '{"check": %s, "state": %s, "found": %s, "remedy": %s}\n' "${fields[0]}" "${fields[1]}" "${fields[2]}" \
        "${fields[3]:-null}"
}

# text PATH: one line of a file of the kernel; nothing when there is none.
text() { head -n 1 "$1" 2>/dev/null || true; }

status_hugepages() {
    local node directory all free asked
    for node in "$root"/sys/devices/system/node/node[0-9]*; do
        directory=$node/hugepages/hugepages-2048kB
        all=$(text "$directory/nr_hugepages") free=$(text "$directory/free_hugepages")
        node=${node##*/node}
        asked=$(awk -F'\t' -v boot="$boot_id" -v path="$directory/nr_hugepages" \
            '$1 == "write" && $2 == boot && $3 == path { asked = NF > 5 ? $6 : $5 } END { print asked }' "$journal" 2>/dev/null) || true
        local found="node $node: ${all:-0} of 2 MiB, ${free:-0} free${asked:+; config asked for $asked}"
        if [ "${all:-0}" = 0 ]; then
            finding hugepages missing "$found" "reserve some: host.sh config --hugepages $node=COUNT"
        elif [ -n "$asked" ] && [ "$all" -lt "$asked" ]; then
            finding hugepages warning "$found" "reserve them at boot: hugepagesz=2M hugepages=$node:$asked"
        else
            finding hugepages ok "$found"
        fi
    done
    awk '{ for (i = 7; i < NF; i++) if ($i == "-" && $(i + 1) == "hugetlbfs") print $5 }' "$root/proc/self/mountinfo" |
        while read -r directory; do finding hugetlbfs ok "$directory, of user $(stat -c %U "$root$directory")"; done
}

status_iommu() {
    local groups=("$root"/sys/kernel/iommu_groups/*)
    if [ -e "${groups[0]}" ]; then
        finding IOMMU ok "${#groups[@]} groups"
    else
        finding IOMMU missing "none active, so no vfio-pci" \
            "enable it in the firmware and boot with intel_iommu=on or amd_iommu=on"
    fi
}

# status_namespace NAME: what its queue is like.
status_namespace() {
    local queue path scheduler found state=ok remedy=''
    queue=$(sysfs_of "$1")/queue path=$(queues_of "$1" | head -n 1)
    scheduler=$(value_in "$path/scheduler")
    found="/dev/$1: $(text "$queue/logical_block_size") B blocks, scheduler $scheduler"
    found+=", nr_requests $(text "$path/nr_requests"), $(text "$queue/write_cache")"
    found+=", transfers up to $(text "$queue/max_sectors_kb") KiB"
    if [ "$(text "$queue/io_poll")" = 1 ]; then found+=", polled"; else
        found+=", interrupts" state=warning remedy="host.sh config --poll-queues N, for polling"
    fi
    if [ "$scheduler" != none ]; then state=warning remedy="host.sh config --device /dev/$1"; fi
    finding namespace "$state" "$found, of user $(stat -c %U "$root/dev/$1" 2>/dev/null || echo nobody)" "$remedy"
}

status_nvme() {
    local device bdf name group about found=0
    for device in "$root"/sys/bus/pci/devices/*; do
        if [ "$(text "$device/class")" != 0x010802 ]; then continue; fi
        bdf=$(basename "$device") found=1
        group=$(basename "$(readlink "$device/iommu_group" 2>/dev/null || echo none)")
        about="$bdf: driver $(driver_of "$bdf"), IOMMU group $group, NUMA node $(text "$device/numa_node")"
        if [ -e "$root/dev/vfio/$group" ]; then about+=", /dev/vfio/$group of user $(stat -c %U "$root/dev/vfio/$group")"; fi
        finding NVMe ok "$about"
        for name in $(namespaces_of "$bdf"); do status_namespace "$name"; done
    done
    if [ "$found" = 0 ]; then finding NVMe missing "no controller on the PCI bus"; fi
}

status_poll_queues() {
    local now asked
    now=$(text "$root/sys/module/nvme/parameters/poll_queues")
    asked=$(sed -n 's/^options nvme poll_queues=//p' "$root/etc/modprobe.d/forebay.conf" 2>/dev/null) || true
    if [ -z "$now" ]; then return; fi
    if [ -n "$asked" ] && [ "$asked" != "$now" ]; then
        finding "poll queues" warning "the nvme driver has $now, config asked for $asked" \
            "update-initramfs -u, and reboot"
    else
        finding "poll queues" ok "the nvme driver has $now"
    fi
}

status_cores() {
    local isolated governors online awake
    isolated=$(text "$root/sys/devices/system/cpu/isolated")
    online=$(text "$root/sys/devices/system/cpu/online")
    if [ -n "$isolated" ]; then
        finding cores ok "$online, isolated $isolated: name those in reactors.cores"
    else
        finding cores warning "$online, none isolated: others run on a reactor's core, and its tail is theirs" \
            "boot with isolcpus=managed_irq,domain,LIST nohz_full=LIST rcu_nocbs=LIST, and name LIST in reactors.cores"
    fi
    governors=$(cat "$root"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>/dev/null | sort -u | tr '\n' ' ') || true
    case $governors in
        '') finding governor ok "none (virtual machine, or fixed frequency)" ;;
        'performance ') finding governor ok performance ;;
        *) finding governor warning "${governors% }: a core that slows down takes microseconds to come back" \
            "cpupower frequency-set -g performance" ;;
    esac
    # "n/a" there says that no time for waking up is borne.
    awake=$(grep -l '^n/a$' "$root"/sys/devices/system/cpu/cpu[0-9]*/power/pm_qos_resume_latency_us 2>/dev/null |
        sed -E 's|.*/cpu([0-9]+)/power/.*|\1|' | sort -n | tr '\n' ' ') || true
    if [ -n "$awake" ]; then
        finding "cores kept awake" ok "${awake% }: they take power without work too; for reactors that poll for ever on a file"
    fi
}

status_memlock() {
    local limit
    limit=$(ulimit -l)
    case $limit in
        unlimited) finding "locked memory" ok "unlimited, for this shell" ;;
        *) finding "locked memory" warning "$limit KiB, for this shell (forebay.service has its own)" \
            "host.sh config --user NAME, and log in again" ;;
    esac
}

status() {
    status_hugepages
    status_memlock
    status_iommu
    status_cores
    status_poll_queues
    status_nvme
    if [ -s "$journal" ]; then
        finding changes ok "$(wc -l <"$journal") noted in ${journal#"$root"}; host.sh reset undoes them"
    else
        finding changes ok "none by host.sh config"
    fi
}
