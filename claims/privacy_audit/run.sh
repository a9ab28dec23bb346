#!/bin/sh
# Usage: claims/privacy_audit/run.sh [SETTING] [SEED] [FOLDER]
exec artifact run privacy_audit --setting "${1:-smoke}" --seed "${2:-0}" --out "${3:-runs}"
