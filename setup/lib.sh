# shellcheck shell=bash
# What every script of setup/ shares: how it speaks, how it changes something, how it asks for what is missing.
# To be sourced. A caller sets dry_run=1 to have every change printed instead of made.

# Administration tools stand in sbin, which an ordinary user's PATH leaves out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
dry_run=${dry_run:-0}

say() { printf '%s\n' "$*"; }

warn() { printf '%s: warning: %s\n' "${0##*/}" "$*" >&2; }

# die MESSAGE: what is wrong, where, what to do. Exit code 1: refused, or failed.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# usage_error MESSAGE: the command line was not understood. Exit code 2.
usage_error() {
    printf '%s: %s; see %s --help\n' "${0##*/}" "$*" "$0" >&2
    exit 2
}

# print_help: the comment at the head of the calling script, without the marks.
print_help() {
    awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
}

# value_of OPTION [VALUE]: the value that an option needs.
value_of() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then usage_error "$1 needs a value"; fi
    printf '%s' "$2"
}

# number_of OPTION [VALUE]: the same, a whole number.
number_of() {
    local value
    value=$(value_of "$@") || exit
    [[ $value =~ ^(0|[1-9][0-9]{0,9})$ ]] || usage_error "$1 needs a whole number, not '$value'"
    printf '%s' "$value"
}

# shown COMMAND...: the command as it could be typed.
shown() { printf '%q ' "$@" | sed 's/ $//'; }

# change COMMAND...: prints a command that changes something, and runs it unless this is a dry run.
change() {
    say "+ $(shown "$@")"
    if [ "$dry_run" = 0 ]; then "$@"; fi
}

# need PROGRAM=PACKAGE...: stops and names the command that installs all that is missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        if ! command -v "${pair%%=*}" >/dev/null; then missing+=("${pair#*=}"); fi
    done
    if [ ${#missing[@]} -gt 0 ]; then
        die "missing: ${missing[*]}; install: apt-get install --no-install-recommends ${missing[*]}"
    fi
}

# need_root: for what changes the machine.
need_root() {
    if [ "$dry_run" = 0 ] && [ "$(id -u)" -ne 0 ]; then
        die "needs root; run it with sudo, or look with --dry-run first"
    fi
}
