#!/bin/sh
# Usage: claims/table_cifar10/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run table_cifar10 --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
