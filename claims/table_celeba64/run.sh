#!/bin/sh
# Usage: claims/table_celeba64/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run table_celeba64 --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
