#!/bin/sh
# Usage: claims/headline_averages/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run headline_averages --setting "${1:-records}" --seed "${2:-0}" --out "${3:-runs}"
