#!/bin/sh
# Usage: claims/privacy_budget/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run privacy_budget --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
