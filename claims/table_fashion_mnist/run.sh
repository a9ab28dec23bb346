#!/bin/sh
# Usage: claims/table_fashion_mnist/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run table_fashion_mnist --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
