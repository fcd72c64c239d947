# shellcheck shell=bash
# Where the test bed keeps what `prep` makes, and what both `prep` and `run` need. To be sourced.

bed_directory=${FOREBAY_TESTBED:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay/testbed}

# A kernel, its modules and the initramfs: `current` is a link to the newest complete set.
bed_current=$bed_directory/current

# The machine that the guest sees, apart from its drives. The guest ends by powering off; a panic ends it too.
# machine_arguments ACCELERATOR
machine_arguments() {
    local cpu=max
    if [ "$1" = kvm ]; then cpu=host; fi
    printf '%s\n' -machine q35 -accel "$1" -cpu "$cpu" -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$bed_current/kernel" -initrd "$bed_current/initrd"
}

# shellcheck disable=SC2034 # for those who source this
kernel_arguments="console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"
