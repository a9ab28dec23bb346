#!/usr/bin/env bash
# Builds the image and uses it as reviewers do: without network, GPU, privileges or a known user.
# Prints one line for each property, then build time and sizes; exit status 0 only if all hold.
#
#   tests/container/check.sh       with a Docker engine that answers; $DOCKER_BUILD_FLAGS go to `docker build`
#
# Results stay in out/container if something fails, with what every command said in out/container/log.
set -u
cd "$(dirname "$0")/../.."
image=privimage:check container=privimage-check-$$ user=12345
out=$PWD/out/container runs=$PWD/out/container/runs said=$PWD/out/container/said
hardened=(--network none --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp)
claim_folder=$runs/kick_the_tires/smoke/seed0
passed=0 failed=0

main() {
  prepare
  check "it builds" builds
  [ "$failed" -eq 0 ] || { cat "$out/log"; exit 1; }
  check "an index of CPU files that is not reached ends the build in one sentence" cpu_index_refused
  check "its labels say what it is and of which commit" labelled
  check "without a command it prints the four commands to a first result" prints_first_steps
  check "doctor finds a machine without a GPU fit, and exits with 0" doctor_without_gpu
  check "every command of artifact, and any program, can be called" commands_and_programs
  check "it holds the pinned versions and nothing else" pinned_versions
  check "no compiler, cache, secret, image, test or history is in it" nothing_superfluous
  check "any user can write where runs write, and nowhere else" writable_places
  check "a memory limit below the need is refused with exit status 3" memory_too_small
  check "a memory limit that is hit is explained" memory_exhausted
  check "SIGINT stops a run with 130" stopped_by INT 130 "query network"
  check "the same command goes on; SIGTERM stops it with 143" stopped_by TERM 143 "pretrain"
  check "it continues to its verdict and pays for nothing twice" kick_the_tires
  check "results belong to the caller" owned_by_caller
  check "the verdict is PASS, and a report is written" compare_and_report
  check "a change of source leaves the layers of the dependencies" cached_layers
  check "the lines of README's container section work as they stand" readme_to_the_letter
  check "compose.yaml is understood" compose
  print_sizes
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ] || { cat "$out/log"; exit 1; }
  delete_results
}

# --- how checks are run ---

check() { # check SENTENCE FUNCTION [ARG...]
  local sentence=$1 started=$SECONDS status
  shift
  (set -e; "$@") >"$out/last" 2>&1
  status=$?
  if [ "$status" -eq 0 ]; then
    passed=$((passed + 1))
    printf 'ok    %s (%d s)\n' "$sentence" $((SECONDS - started))
  else
    failed=$((failed + 1))
    printf 'FAIL  %s (%d s): %s\n' "$sentence" $((SECONDS - started)) "$(tail -n 1 "$out/last")"
    { echo "== $sentence"; cat "$out/last"; } >>"$out/log"
  fi
}

artifact() { # as reviewers call it, in the narrowest container
  docker run --rm "${hardened[@]}" --user "$user:$user" --volume "$runs:/runs" "$image" "$@"
}

in_image() { # a shell script in the image, as root, without hardening
  docker run --rm --user 0 --network none "$image" sh -euc "$1"
}

exits_with() { # exits_with STATUS COMMAND...: what it said is kept for `says`
  local wanted=$1 status=0
  shift
  "$@" >"$said" 2>&1 || status=$?
  cat "$said"
  [ "$status" -eq "$wanted" ] || fault "exit status $status, not $wanted"
}

says() {
  grep -qF -- "$1" "$said" || fault "it does not say: $1"
}

fault() {
  echo "$1"
  return 1
}

prepare() {
  mkdir -p "$out"
  if docker image inspect "$image" >/dev/null 2>&1; then delete_results; fi
  rm -rf "$out"
  mkdir -p "$runs"
  chmod 777 "$runs" # the user of the container is not the owner
  : >"$out/log"
  trap 'docker rm --force "$container" >/dev/null 2>&1' EXIT
}

delete_results() { # they belong to another user, so the engine deletes them
  docker run --rm --user 0 --network none --volume "$out:/out" "$image" \
    find /out -mindepth 1 -delete
}

# --- the checks ---

builds() {
  local started=$SECONDS
  # shellcheck disable=SC2086  # several flags
  docker build ${DOCKER_BUILD_FLAGS:-} --build-arg REVISION=a-commit --tag "$image" .
  echo $((SECONDS - started)) >"$out/build_seconds"
}

cpu_index_refused() { # the builder shows the command as well, in which the sentence stands in quotes
  # shellcheck disable=SC2086
  exits_with 1 docker build ${DOCKER_BUILD_FLAGS:-} --build-arg CPU_INDEX=https://cpu-index.invalid .
  grep -qE "(^|[0-9] )error: CPU_INDEX is not reached" "$said" || fault "it does not say that it is not reached"
}

labelled() {
  exits_with 0 docker image inspect --format '{{json .Config.Labels}}' "$image"
  for words in '.revision":"a-commit"' '.base.name":"debian:bookworm-slim"' '.licenses":"MIT"' \
    '.source":"unknown"'; do says "$words"; done
}

prints_first_steps() {
  exits_with 0 docker run --rm "$image"
  for words in "docker build" "doctor" "run kick_the_tires" "report"; do says "$words"; done
}

doctor_without_gpu() {
  hardened+=(--env NVIDIA_VISIBLE_DEVICES=void) # where NVIDIA's runtime is the default
  exits_with 0 artifact doctor
  for words in "built for CUDA" "NCCL" "sm_" "only settings for a CPU can run" "settings can run here"; do
    says "$words"
  done
}

commands_and_programs() {
  for command in doctor list show run compare report expect fetch; do
    exits_with 0 artifact "$command" --help
    says "Usage: artifact $command"
  done
  exits_with 0 artifact list
  says kick_the_tires
  exits_with 0 artifact sh -c 'echo "a shell in $PWD"'
  says "a shell in /opt/privimage"
  exits_with 0 artifact privimage --help
  says "Usage: privimage"
  exits_with 2 artifact doctr
  says "Did you mean 'doctor'"
  exits_with 0 artifact run privacy_budget
  says PASS
}

pinned_versions() {
  docker run --rm --network none "$image" python -c '
from importlib.metadata import distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
lines = [line.rstrip(" \\") for line in open("requirements.txt").read().splitlines() if line[0] not in "# "]
pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
pinned = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
for found in distributions():
    given = f"=={found.version}".partition("+")[0]
    assert pinned.get(canonicalize_name(found.name)) == given, (found.name, found.version)
'
}

nothing_superfluous() {
  in_image '
    for program in cc gcc g++ make git pip pip3 pytest ruff; do
      if command -v "$program"; then echo "there is $program"; exit 1; fi
    done
    found=$(find / -xdev \( -name .git -o -name .netrc -o -name .pypirc -o -name ".env*" -o -name "id_*sa" \
      -o -name "*credentials*.json" -o -path "/opt/privimage/tests*" -o -path "*/.cache/*" \
      -o -path "/var/lib/apt/lists/*" -o -name "*.deb" -o -path "/data/*" -o -path "/runs/*" -o -path "/cache/*" \) \
      ! -path "*/site-packages/*" -print
      find /opt/privimage -name "*.npz" -o -name "*.npy" -o -name "*.zip" -o -name "*.png" -o -name "*.webp")
    if [ -n "$found" ]; then echo "it holds:" $found; exit 1; fi
  '
}

writable_places() {
  exits_with 0 docker run --rm "$image" id -u
  [ "$(cat "$said")" != 0 ] || fault "it runs as root"
  docker run --rm "${hardened[@]}" --user 54321:54321 "$image" sh -euc '
    for place in /data /runs /cache /tmp "$HOME" runs; do touch "$place/file"; done'
  exits_with 0 docker run --rm --user 54321:54321 --network none "$image" sh -c \
    'find / -xdev -writable -not -type l -not -path "/proc/*" -not -path "/dev/*" 2>/dev/null || true'
  if grep -vxE '/(tmp|var/tmp|run/lock|data|runs|cache)' "$said"; then fault "these can be written"; fi
}

memory_too_small() {
  exits_with 3 docker run --rm --memory 1g --memory-swap 1g "${hardened[@]}" "$image" run kick_the_tires
  says "GiB of memory"
}

memory_exhausted() {
  exits_with 137 docker run --rm --memory 450m --memory-swap 450m "${hardened[@]}" "$image" \
    run kick_the_tires --force
  says "memory ran out"
}

stopped_by() { # stopped_by SIGNAL STATUS STAGE: once that stage is at work
  local status=0
  docker run --rm --name "$container" "${hardened[@]}" --user "$user:$user" --volume "$runs:/runs" "$image" \
    run kick_the_tires >"$said" 2>&1 &
  for _ in $(seq 300); do
    if grep -q "$3: [0-9]" "$said" || ! kill -0 $! 2>/dev/null; then break; fi
    sleep 1
  done
  sleep 2
  docker kill --signal "$1" "$container"
  wait $! || status=$?
  cat "$said"
  [ "$status" -eq "$2" ] || fault "exit status $status, not $2"
  says "$3: "
  says "the same command continues the run"
}

kick_the_tires() {
  local network=$claim_folder/shared/query_network.safetensors before
  before=$(stat --format %Y "$network")
  exits_with 0 artifact run kick_the_tires --setting smoke
  says PASS
  [ "$(stat --format %Y "$network")" = "$before" ] || fault "the query network was trained again"
  case $(tr -d ' \n' <"$claim_folder/selected/ledger.json") in
    *'"reserved":1,"charged":1}'*'"reserved":50,"charged":50}'*) ;;
    *) fault "the ledger does not hold one query and 50 steps" ;;
  esac
}

owned_by_caller() {
  local others
  others=$(docker run --rm --user 0 --network none --volume "$runs:/runs" "$image" \
    find /runs -mindepth 1 ! -uid "$user")
  [ -z "$others" ] || fault "not of user $user: $others"
}

compare_and_report() {
  exits_with 0 artifact compare kick_the_tires
  says PASS
  exits_with 0 artifact report
  [ -s "$runs/report.html" ] || fault "there is no report.html"
}

cached_layers() { # independent of the builder: all layers but those of the source are the very same
  local context=$out/context
  copy_of_source "$context"
  echo '# touched' >>"$context/privimage/__init__.py"
  # shellcheck disable=SC2086
  docker build ${DOCKER_BUILD_FLAGS:-} --tag "$image-touched" "$context"
  layers "$image" >"$out/layers"
  layers "$image-touched" >"$out/layers_touched"
  docker rmi "$image-touched" >/dev/null
  diff "$out/layers" "$out/layers_touched" | tee "$out/layers_changed" || true
  [ "$(grep -c '^>' "$out/layers_changed")" -le 2 ] || fault "more layers than those of the source are new"
  grep -q '^>' "$out/layers_changed" || fault "the change of source did not reach the image"
}

copy_of_source() {
  mkdir "$1"
  cp -R .dockerignore Dockerfile LICENSE README.md artifact bench claims deploy docs example.py example_in_memory.py \
    expected_results privimage pyproject.toml requirements.txt "$1"
}

layers() {
  docker image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' "$1"
}

readme_to_the_letter() { # in a copy; the image is called privimage, as there
  local folder=$out/readme
  copy_of_source "$folder"
  cd "$folder"
  awk '/^## /{here = /^## In a container/} /^```/{block = !block; next} here && block' README.md >lines.sh
  [ "$(grep -c '^docker\|^mkdir' lines.sh)" -eq 4 ] || fault "README's container section has not four lines"
  if [ -n "${DOCKER_BUILD_FLAGS:-}" ]; then # a machine whose builds need flags: they are slipped in
    mkdir bin
    printf '#!/bin/sh\nif [ "$1" = build ]; then shift; set -- build %s "$@"; fi\nexec "%s" "$@"\n' \
      "$DOCKER_BUILD_FLAGS" "$(command -v docker)" >bin/docker
    chmod +x bin/docker
    PATH=$folder/bin:$PATH
  fi
  exits_with 0 bash -euo pipefail lines.sh
  for words in "settings can run here" PASS report.html; do says "$words"; done
  [ -s runs/report.html ] || fault "there is no report.html"
}

compose() {
  if ! docker compose version >/dev/null 2>&1; then
    echo "compose is not installed" >"$out/compose_missing"
    return
  fi
  docker compose --file compose.yaml --profile gpu config --quiet
}

print_sizes() {
  local bytes torch
  bytes=$(docker image inspect --format '{{.Size}}' "$image")
  torch=$(in_image 'cd /opt/venv/lib/python3*/site-packages && du -cbs torch nvidia triton cuda | tail -n 1 | cut -f 1')
  echo "build: $(cat "$out/build_seconds") s; image: $((bytes / 1000000)) MB, of which torch with NVIDIA's" \
    "libraries $((torch / 1000000)) MB and the rest $(((bytes - torch) / 1000000)) MB"
  if [ -f "$out/compose_missing" ]; then echo "NOT RUN: compose.yaml (docker compose is not installed here)"; fi
  if [ "$bytes" -gt 6500000000 ]; then
    failed=$((failed + 1))
    echo "FAIL  the image is larger than 6.5 GB" | tee -a "$out/log"
  fi
}

main; exit # read to its end by now, so that an edit cannot change a check that is under way
