#!/bin/sh
# Run TIPC configs and print a table; ends with a non-zero status if any step of any config failed.
#
#   sh scripts/tipc.sh [PATTERN ...] [--mode MODE]
#
#   PATTERN   configs by name, such as hashnet_16 or 'hashnet_*' (default: all)
#   MODE      lite_train_lite_infer (default), lite_train_whole_infer, whole_train_whole_infer, whole_infer
#
# Logs: test_tipc/output/<config>/<mode>/; the table: test_tipc/output/summary.txt.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

mode=lite_train_lite_infer
patterns=
while [ $# -gt 0 ]; do
    case $1 in
        --mode)
            [ $# -ge 2 ] || die "--mode needs a value"
            mode=$2
            shift
            ;;
        --mode=*) mode=${1#--mode=} ;;
        -*) die "unknown argument $1; sh scripts/tipc.sh [PATTERN ...] [--mode MODE]" ;;
        *[!A-Za-z0-9_?*-]*) die "$1 is no pattern of config names, such as 'hashnet_*'" ;;
        *) patterns="$patterns $1" ;;
    esac
    shift
done
case $mode in
    lite_train_lite_infer | lite_train_whole_infer | whole_train_whole_infer | whole_infer) ;;
    *) die "unknown mode $mode; one of lite_train_lite_infer lite_train_whole_infer whole_train_whole_infer whole_infer" ;;
esac
command -v bash >/dev/null || die "the TIPC scripts need bash"

all=
for file in test_tipc/configs/*/train_infer_python.txt; do
    all="$all $(basename "$(dirname "$file")")"
done

# the configs that match any of the patterns, in the order of names; set -f keeps patterns from becoming files
set -f
chosen=
for pattern in ${patterns:-*}; do
    found=
    for config in $all; do
        # shellcheck disable=SC2254  # a pattern, not a word
        case $config in $pattern) found="$found $config" ;; esac
    done
    [ -n "$found" ] || die "no config is called $pattern; there are$all"
    chosen="$chosen $found"
done
# shellcheck disable=SC2086  # words
chosen=$(printf '%s\n' $chosen | sort -u)
set +f

use_python
summary=test_tipc/output/summary.txt
mkdir -p test_tipc/output
printf '%-12s %-24s %-12s %-20s %7s %8s\n' config mode step status seconds mAP >$summary
passed=0
failed=
for config in $chosen; do
    echo "== $config $mode"
    file=test_tipc/configs/$config/train_infer_python.txt
    steps=test_tipc/output/$config/$mode/steps.tsv
    rm -f "$steps"
    begin=$(date +%s)
    if bash test_tipc/prepare.sh "$file" "$mode" && bash test_tipc/test_train_inference_python.sh "$file" "$mode"; then
        verdict=passed
        passed=$((passed + 1))
    else
        verdict=FAILED
        failed="$failed $config"
    fi
    tab=$(printf '\t')
    if [ -f "$steps" ]; then
        while IFS=$tab read -r step status seconds map; do
            printf '%-12s %-24s %-12s %-20s %7s %8s\n' "$config" "$mode" "$step" "$status" "$seconds" "$map" >>$summary
        done <"$steps"
    fi
    printf '%-12s %-24s %-12s %-20s %7s\n' "$config" "$mode" "all" "$verdict" $(($(date +%s) - begin)) >>$summary
done

echo
cat $summary
echo
if [ -n "$failed" ]; then
    echo "$passed passed, failed:$failed (logs in test_tipc/output/<config>/$mode/)"
    exit 1
fi
echo "$passed passed"
