#!/usr/bin/env bash
# The load engine beside its peers: the same work on the same machine in the same run, alternating, several rounds, medians.
#
#   benches/load.sh [path of autotune]      ROUNDS=3 SECONDS_EACH=5 RATES="1000 10000 20000"
#
# A null server is pinned to one CPU and the tool to another. Measured are the tool's own CPU time (user + system of the whole
# process), its memory, the requests that the server saw, and the coefficient of variation of the gaps between them. Peers that are not installed are
# skipped with a word: wrk (apt), oha (cargo install oha --locked); k6, wrk2 and hey are used where they are installed.
# At the end the stall test: 500 rps on 5 connections, and the server stops for 200 ms every 2 s; the truth is p99 180 ms, p99.9 198 ms.
# RUN_AS may hold a prefix for server and tools, "chrt -r 10" for instance, where other work on the machine must not count.
set -euo pipefail

autotune=${1:-target/release/autotune}
rounds=${ROUNDS:-3}
each=${SECONDS_EACH:-5}
rates=${RATES:-"1000 10000 20000"}
connections=${CONNECTIONS:-50}
server_cpu=${SERVER_CPU:-0}
tool_cpu=${TOOL_CPU:-1}
port=${PORT:-18080}
run_as=${RUN_AS:-}
url=http://127.0.0.1:$port/
work=$(mktemp -d)

command -v "$autotune" >/dev/null || { echo "no autotune at $autotune: cargo build --release first" >&2; exit 64; }
[ "$(nproc)" -ge 2 ] || { echo "two CPUs are needed: one for the server, one for the tool" >&2; exit 69; }

# shellcheck disable=SC2086
taskset -c "$server_cpu" $run_as "$autotune" load --null-server "$port" >"$work/server.log" &
server=$!
stalling=
trap 'kill "$server" $stalling 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 50); do grep -q http "$work/server.log" && break; sleep 0.1; done

cat >"$work/k6.js" <<JS
import http from 'k6/http';
export const options = { discardResponseBodies: true, scenarios: { s: { executor: 'constant-arrival-rate', rate: Number(__ENV.RATE),
  timeUnit: '1s', duration: __ENV.TIME + 's', preAllocatedVUs: $connections, maxVUs: $connections } } };
export default function () { http.get('$url'); }
JS

# The command of a tool for a rate; "max" is flat out.
command_of() {
  local tool=$1 rate=$2
  case $tool:$rate in
    autotune:max) echo "$autotune load --url $url --rate 200000 --duration ${each}s --timeout 1s --connections $connections --json" ;;
    autotune:*)   echo "$autotune load --url $url --rate $rate --duration ${each}s --connections $connections --json" ;;
    wrk:max)      echo "wrk -t1 -c$connections -d${each}s $url" ;;
    wrk2:max)     echo "" ;;
    wrk2:*)       echo "wrk2 -t1 -c$connections -d${each}s -R$rate $url" ;;
    oha:max)      echo "oha --no-tui -c $connections -z ${each}s $url" ;;
    oha:*)        echo "oha --no-tui -c $connections -z ${each}s -q $rate --latency-correction $url" ;;
    hey:max|k6:max) echo "" ;;
    hey:*)        echo "hey -c $connections -z ${each}s -q $((rate / connections)) $url" ;;
    k6:*)         echo "env RATE=$rate TIME=$each k6 run --quiet --no-usage-report --summary-mode=disabled $work/k6.js" ;;
    *)            echo "" ;;
  esac
}

# One run: CPU microseconds a request, requests, gap CV, memory MB, and for autotune its send lag.
measure() {
  local tool=$1 rate=$2 line
  line=$(command_of "$tool" "$rate")
  [ -n "$line" ] || return 0
  curl -s "${url}stats" >/dev/null
  # shellcheck disable=SC2086
  taskset -c "$tool_cpu" $run_as python3 - "$work/out" $line <<'PY' >"$work/cpu"
import resource, subprocess, sys
with open(sys.argv[1], "w") as out:
    subprocess.run(sys.argv[2:], stdout=out, stderr=subprocess.DEVNULL)
u = resource.getrusage(resource.RUSAGE_CHILDREN)
print(u.ru_utime + u.ru_stime, u.ru_maxrss / 1024)
PY
  curl -s "${url}stats" >"$work/stats"
  python3 - "$tool" "$rate" "$each" "$work" >>"$work/rows" <<'PY'
import json, sys
tool, rate, each, work = sys.argv[1:]
cpu, rss = map(float, open(work + "/cpu").read().split())
seen = json.load(open(work + "/stats"))
lag = ""
if tool == "autotune":
    r = json.load(open(work + "/out"))
    lag = "%.3f" % r["send_lag_ms"]["p99"]
n = max(seen["requests"], 1)
print(tool, rate, cpu / n * 1e6, seen["requests"] / float(each), seen["gap_cv"], rss, lag or "-")
PY
}

tools=autotune
for peer in wrk oha k6 wrk2 hey; do
  if command -v "$peer" >/dev/null; then tools="$tools $peer"; else echo "skipped: $peer is not installed"; fi
done
for rate in $rates max; do
  for _ in $(seq "$rounds"); do
    for tool in $tools; do
      [ "$tool" = wrk ] && [ "$rate" != max ] && continue
      measure "$tool" "$rate"
    done
  done
done

python3 - "$work/rows" <<'PY'
import collections, statistics, sys
rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    tool, rate, *values = line.split()
    rows[(rate, tool)].append([float(v) if v != "-" else None for v in values])
print(f"{'rate':>8} {'tool':<9}{'us/request':>11}{'ratio':>7}{'achieved/s':>12}{'gap CV':>8}{'MB':>7}{'lag p99 ms':>12}")
own = {}
for (rate, tool), values in rows.items():
    median = lambda i: statistics.median(v[i] for v in values if v[i] is not None) if values[0][i] is not None else None
    if tool == "autotune":
        own[rate] = median(0)
    lag = median(4)
    print(f"{rate:>8} {tool:<9}{median(0):>11.1f}{own[rate] / median(0):>7.2f}{median(1):>12.0f}{median(2):>8.2f}{median(3):>7.0f}{'' if lag is None else f'{lag:.3f}':>12}")
print("ratio: autotune's CPU per request over the tool's; below 1 autotune is cheaper")
PY

# shellcheck disable=SC2086
taskset -c "$server_cpu" $run_as "$autotune" load --null-server $((port + 1)) --stall >"$work/stalling.log" &
stalling=$!
for _ in $(seq 50); do grep -q http "$work/stalling.log" && break; sleep 0.1; done
for _ in $(seq "$rounds"); do
  # shellcheck disable=SC2086
  taskset -c "$tool_cpu" $run_as "$autotune" load --url "http://127.0.0.1:$((port + 1))/" --rate 500 --duration 10s --connections 5 --json |
    python3 -c 'import json, sys
r = json.load(sys.stdin)
lost = r["scheduled"] - r["good"] - r["in_flight_end"] + r["in_flight_after_drain"]
print("stall test: p99 %.1f ms, p99.9 %.1f ms, %d scheduled, %d lost" % (r["latency_ms"]["p99"], r["latency_ms"]["p999"], r["scheduled"], lost))'
done
