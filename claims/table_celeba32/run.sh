#!/bin/sh
# Usage: claims/table_celeba32/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run table_celeba32 --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
