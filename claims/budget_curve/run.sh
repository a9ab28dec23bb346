#!/bin/sh
# Usage: claims/budget_curve/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run budget_curve --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
