#!/bin/sh
# Usage: claims/selection_matters/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run selection_matters --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
