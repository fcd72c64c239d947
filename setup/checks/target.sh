# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# The tier spdk against SPDK's own target on this host, over vfio-user and TCP: the tests of tests/spdk.rs and sys/src/spdk.
# Needs an installed SPDK (pkg-config, vendor/README.md) and its nvmf_tgt: FOREBAY_SPDK_TARGET names one, else that of the PATH
# or of SPDK's prefix is taken. No root, no hugepages, no drive. Built where checks/spdk.sh looks for its binary.

target_tests=$(cat "$setup"/../tests/spdk.rs "$setup"/../sys/src/spdk/tests.rs | grep -c '^#\[test\]')
# No "..": before the first build the directory behind it is not there.
target_build=$(dirname "$(dirname "${FOREBAY_SPDK:-$(dirname "$setup")/target/spdk/release/forebay}")")

# target_program: SPDK's nvmf_tgt; nothing when none is found.
target_program() {
    local prefix
    prefix=$(pkg-config --variable=prefix spdk_nvme)
    if [ -n "${FOREBAY_SPDK_TARGET:-}" ]; then
        printf '%s' "$FOREBAY_SPDK_TARGET"
    else
        PATH=$PATH:$prefix/bin command -v nvmf_tgt || true
    fi
}

# target_missing: why the tests cannot run here; fails when they can.
target_missing() {
    if ! pkg-config --exists spdk_nvme 2>/dev/null; then
        echo "pkg-config finds no spdk_nvme; install SPDK (vendor/README.md) and set PKG_CONFIG_PATH"
    elif ! command -v cargo >/dev/null; then
        echo "no cargo"
    elif [ ! -x "$(target_program)" ]; then
        echo "no nvmf_tgt in PATH or SPDK's prefix; FOREBAY_SPDK_TARGET names one"
    else
        return 1
    fi
}

# target_suite CARGO'S WORDS...: each of its tests counts.
target_suite() {
    local line code=0
    (cd "$setup/.." && FOREBAY_SPDK_TARGET=$(realpath "$(target_program)") timeout 900 cargo test --features spdk \
        --target-dir "$target_build" "$@") >"$scratch/tests" 2>"$scratch/errors" </dev/null || code=$?
    cat "$scratch/tests" "$scratch/errors" >"$scratch/output"
    while read -r line; do
        case $line in
            'test '*' ... ok') pass && target_ran=$((target_ran + 1)) ;;
            'test '*' ... FAILED') fail "target: ${line#test }" && target_ran=$((target_ran + 1)) ;;
        esac
    done < <(cat "$scratch/tests")
    if [ "$code" != 0 ]; then fail "target: cargo test $*: exit code $code"; fi
    # A test that found no target to talk to says so, and ends well.
    if grep -q '^skipped: ' "$scratch/errors"; then fail "target: a test skipped itself"; fi
}

if why=$(target_missing); then
    skip "$target_tests" "the tests of the tier spdk: $why"
else
    target_ran=0
    target_suite -p forebay-sys spdk::tests
    target_suite --test spdk
    same "target: tests that ran" "$target_tests" "$target_ran"
fi
