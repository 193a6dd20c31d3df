#!/usr/bin/env bash
# What a machine with a GPU has to show, in one command that ends by itself:
#
#   training/gpu_check.sh OUT                           # steps at published sizes, and tests of the GPU against the CPU
#   training/gpu_check.sh OUT --data FOLDER             # and, with what time is left, rows of a table on real images
#   training/gpu_check.sh OUT --device cpu --tiny       # the same script where there is no GPU
#
# OUT gets steps.jsonl, tests.jsonl, rows.jsonl and what was said meanwhile (log.txt). FOLDER has a folder `cifar10` of parquet
# files; the rows are DM with 5 hallucinators on bases of frequencies and MTT from there, on experts recorded here. --minutes 9
# bounds all of it, --python names an interpreter that has haba_hf's requirements.
set -uo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || usage
out=$1; shift
data= device=cuda tiny= minutes=9 python=python3
while [ $# -gt 0 ]; do
  case $1 in
    --data) data=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --tiny) tiny=--tiny; shift ;;
    *) usage ;;
  esac
done
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
[ -z "$data" ] || data=$(cd "$data" && pwd) || exit 1
python=$(command -v "$python") || { echo "error: there is no $python: name one with --python." >&2; exit 1; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
[ "$device" = cuda ] || export ACCELERATE_USE_CPU=1 CUDA_VISIBLE_DEVICES=

deadline=$(($(date +%s) + 60 * minutes)) failed=0
left() { echo $((deadline - $(date +%s))); }
stage() {  # NAME MOST_SECONDS COMMAND...: runs it within what is left; says how it ended and goes on
  local name=$1 most=$2 started=$(date +%s); shift 2
  [ "$(left)" -lt "$most" ] && most=$(left)
  [ "$most" -gt 5 ] || { echo "==> $name: no time left"; failed=1; return; }
  timeout "$most" "$@" >>"$out/log.txt" 2>&1
  local status=$?
  [ $status -eq 124 ] && echo "==> $name: stopped after $most s" || echo "==> $name: status $status, $(($(date +%s) - started)) s"
  [ $status -eq 0 ] || failed=1
}

cases=() most=180; [ -z "$tiny" ] || cases=(--cases dm mtt-1 expert --repeats 2) most=3600
stage steps $most "$python" training/benchmark/on_device.py --out "$out/steps.jsonl" --device "$device" --seconds 5 $tiny "${cases[@]}"
stage tests $most "$python" -m pytest -m gpu tests/gpu -p no:cacheprovider --junitxml "$out/tests.xml"
[ ! -f "$out/tests.xml" ] || "$python" - "$out" <<'PYTHON'
import json, pathlib, sys
from xml.etree import ElementTree

out = pathlib.Path(sys.argv[1])
with open(out / "tests.jsonl", "w") as file:
    for case in ElementTree.parse(out / "tests.xml").iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        line = {"test": case.get("name"), "outcome": outcome, "seconds": float(case.get("time"))}
        print(json.dumps(line | {"message": child.get("message")[:500] for child in case if child.get("message")}), file=file)
(out / "tests.xml").unlink()
PYTHON
if [ -n "$data" ]; then
  small=(); [ -z "$tiny" ] || small=(--steps 2 --max_train_samples 1000 --real_batch_size 4 --network_width 4 --student_width 4
    --evaluation_steps 2 --evaluation_seeds 1 --num_experts 1 --expert_batch_size 32 --max_start 2 --expert_span 1 --student_steps 2)
  row="1: 64 frequencies, 5 hallucinators of 1x1 maps"
  work=$(mktemp -d)
  stage rows 3600 "$python" training/reproduce.py storage_cifar10 --rows "$row" "$row, by MTT" --data_root "$data" \
    --output_root "$work/runs" --results "$work/results" --experts_dir "$work/experts" "${small[@]}"
  [ ! -f "$work/results/storage_cifar10.jsonl" ] || cp "$work/results/storage_cifar10.jsonl" "$out/rows.jsonl"
  rm -rf "$work"
fi
exit $failed
