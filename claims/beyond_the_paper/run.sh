#!/bin/sh
# Usage: claims/beyond_the_paper/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run beyond_the_paper --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
