#!/usr/bin/env bash
# A generator that is not given its CPU must say so: every probe of a starved one is to be reported generator_limited.
#
#   benches/starved.sh [path of autotune]      RUNS=20 RATE=4000
#
# Three ways to starve it, each RUNS times against a null server on another CPU: SCHED_IDLE beside a busy loop, a control group's
# quota of 5 % of a core (needs root and a writable cpu controller), and cpulimit (where it is installed). A fourth row, not starved, shows that
# the verdict is not always that. Ends with 1 when a starved probe was taken as valid.
set -euo pipefail

autotune=${1:-target/release/autotune}
runs=${RUNS:-20}
rate=${RATE:-4000}
port=${PORT:-18090}
url=http://127.0.0.1:$port/
work=$(mktemp -d)
pids=()
group=

command -v "$autotune" >/dev/null || { echo "no autotune at $autotune: cargo build --release first" >&2; exit 64; }
[ "$(nproc)" -ge 2 ] || { echo "two CPUs are needed" >&2; exit 69; }
# shellcheck disable=SC2317
clean() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  [ -z "$group" ] || rmdir "$group" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

taskset -c 0 "$autotune" load --null-server "$port" >"$work/server.log" &
pids+=($!)
for _ in $(seq 50); do grep -q http "$work/server.log" && break; sleep 0.1; done

# One probe under a prefix: its verdict.
probe() {
  taskset -c 1 "$@" "$autotune" load --url "$url" --rate "$rate" --duration 500ms --timeout 1s --connections 50 --json \
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["verdict"])'
}

failed=0
row() {
  local name=$1 limited=0
  shift
  for _ in $(seq "$runs"); do
    [ "$(probe "$@")" = generator_limited ] && limited=$((limited + 1))
  done
  echo "$name: generator_limited in $limited of $runs"
  [ "$name" = "not starved" ] || [ "$limited" -eq "$runs" ] || failed=1
}

row "not starved" env

taskset -c 1 sh -c 'while :; do :; done' &
hog=$!
pids+=("$hog")
row "SCHED_IDLE beside a busy loop" chrt -i 0
kill "$hog"

# The quota: version 2 of control groups, or version 1.
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then root=/sys/fs/cgroup; else root=/sys/fs/cgroup/cpu; fi
if mkdir "$root/autotune-starved" 2>/dev/null; then
  group=$root/autotune-starved
  if { echo "5000 100000" >"$group/cpu.max" || { echo 100000 >"$group/cpu.cfs_period_us" && echo 5000 >"$group/cpu.cfs_quota_us"; }; } 2>/dev/null; then
    cat >"$work/in-group" <<SH
#!/bin/sh
echo \$\$ >"$group/cgroup.procs"
exec "\$@"
SH
    chmod +x "$work/in-group"
    row "a quota of 5 % of a core" "$work/in-group"
  else
    echo "skipped: the quota, since the cpu controller is not on for $root"
  fi
else
  echo "skipped: the quota, which needs root and a writable $root"
fi

if command -v cpulimit >/dev/null; then
  row "cpulimit at 5 %" cpulimit --limit 5 --foreground --quiet --
else
  echo "skipped: cpulimit is not installed"
fi
exit "$failed"
