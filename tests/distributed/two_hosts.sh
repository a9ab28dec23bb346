#!/usr/bin/env bash
# Two "hosts" (network namespaces) with one process each run kick_the_tires over a virtual network; in the midst of
# fine-tuning the link is cut. The run has to end in its verdict, by itself. Needs root and iproute2; the hosts
# share the file system.
#
#   tests/distributed/two_hosts.sh OUT [SECONDS_CUT]     $PYTHON: the interpreter to use
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$1 cut=${2:-20} python=${PYTHON:-.venv/bin/python}
a=pi-a-$$ b=pi-b-$$
mkdir -p "$out"
cleanup() {
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
}
pids=()
trap cleanup EXIT
ip netns add "$a"
ip netns add "$b"
ip link add veth0 netns "$a" type veth peer name veth0 netns "$b"
for host in "$a 10.77.0.1" "$b 10.77.0.2"; do
  read -r name address <<<"$host"
  ip -n "$name" address add "$address/24" dev veth0
  ip -n "$name" link set lo up
  ip -n "$name" link set veth0 up
done

start() { # start NAMESPACE LOG ADDRESS IS_HOST: one agent with one process, as on a host of a cluster
  ip netns exec "$1" env OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=veth0 PYTHONPATH="$PWD" \
    "$python" -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --max-restarts 5 \
    --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29512 --rdzv-id two-hosts --local-addr "$3" \
    --rdzv-conf "is_host=$4" \
    -m artifact run kick_the_tires --out "$out" >"$2" 2>&1 &
  pids+=($!)
}
start "$a" "$out/a.log" 10.77.0.1 true
start "$b" "$out/b.log" 10.77.0.2 false

for _ in $(seq 2400); do
  if grep -qs 'finetune: [0-9]' "$out/a.log" "$out/b.log"; then break; fi
  kill -0 "${pids[@]}" || { cat "$out/a.log" "$out/b.log"; echo "a host ended before fine-tuning"; exit 1; }
  sleep 0.5
done
grep -qs 'finetune: [0-9]' "$out/a.log" "$out/b.log" || { echo "fine-tuning was not reached"; exit 1; }
echo "cutting the link for $cut s, in fine-tuning"
ip -n "$a" link set veth0 down
sleep "$cut"
ip -n "$a" link set veth0 up
echo "the link is back"
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
[ "$status" -eq 0 ] || { tail -n 40 "$out/a.log" "$out/b.log"; echo "FAILED with status $status"; exit 1; }
echo "both hosts ended well"
"$python" -m artifact compare kick_the_tires --out "$out"
