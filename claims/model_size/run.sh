#!/bin/sh
# Usage: claims/model_size/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run model_size --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
