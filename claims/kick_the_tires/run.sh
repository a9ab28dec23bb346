#!/bin/sh
# Usage: claims/kick_the_tires/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run kick_the_tires --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
