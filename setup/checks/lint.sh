# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# The scripts as text: shellcheck, help and unknown options, units, Python.

scripts=("$setup"/{host,namespace,install}.sh "$setup/test" "$setup"/testbed/{prep,run,powercuts,crashstates,pollratio})
sourced=("$setup"/{lib,guard,journal,status}.sh "$setup/testbed/"{common.sh,init,guest} "$setup"/checks/*.sh)

if command -v shellcheck >/dev/null; then
    for file in "${scripts[@]}" "${sourced[@]}"; do expect_quiet "shellcheck $file" shellcheck -x "$file"; done
else
    skip $((${#scripts[@]} + ${#sourced[@]})) "no shellcheck: apt-get install shellcheck"
fi

for file in "${scripts[@]}"; do
    expect 0 "^setup/" "$file --help" "$file" --help
    expect 2 "unknown .*--help$" "$file with an unknown option" "$file" --never
    expect 0 '^set -euo pipefail$' "$file is strict" cat "$file"
done
for file in "$setup"/testbed/{qmp,replay}.py; do
    expect 0 '^usage' "$file --help" env PYTHONDONTWRITEBYTECODE=1 python3 "$file" --help
done

# What the units start is not installed here. It complains of others' units too.
verify_units() {
    systemd-analyze verify --man=no "$scratch/units/forebay.service" 2>&1 | grep -F "$scratch/units" || true
}
if command -v systemd-analyze >/dev/null; then
    mkdir -p "$scratch/units"
    for unit in forebay.service forebay-host.service; do
        sed -E 's!^(Exec[A-Za-z]*=)[^ ]+!\1/bin/true!' "$setup/$unit" >"$scratch/units/$unit"
    done
    expect_quiet "systemd-analyze verify" verify_units
else
    skip 1 "no systemd-analyze: apt-get install systemd"
fi
