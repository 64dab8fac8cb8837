#!/usr/bin/env bash
# Make the data that a mode needs, the embedded shapes set, small or whole, and look at every picture of it. No network.
#
#   bash test_tipc/prepare.sh test_tipc/configs/hashnet_16/train_infer_python.txt lite_train_lite_infer
#
# The configs find the sets as data/shapes/tipc/lite and data/shapes/tipc/whole.
set -u
# shellcheck source=test_tipc/common_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
read_arguments "$@"

# link_set NAME [SIZE FLAGS]: generate a shapes set (nothing happens where it exists) and link it as NAME.
link_set() {
    local name=$1 folder target faults
    shift
    folder=$("$python" -m utils.datasets make shapes --data-path data/shapes "$@") ||
        fail "the $name shapes set could not be made"
    folder=$(sed -n 's/^shapes: //p' <<<"$folder")
    [ -f "$folder/train.txt" ] || fail "python -m utils.datasets make shapes made no $folder/train.txt"
    target=../$(basename "$folder")
    if [ "$(readlink "data/shapes/tipc/$name")" != "$target" ]; then
        mkdir -p data/shapes/tipc
        rm -rf "data/shapes/tipc/${name:?}"
        ln -s "$target" "data/shapes/tipc/$name" || fail "cannot link data/shapes/tipc/$name"
    fi
    faults=$("$python" -m utils.datasets check shapes --data-path "data/shapes/tipc/$name" --fast "$@") || {
        echo "$faults" >&2
        fail "the $name shapes set is damaged; remove $folder and it is made anew"
    }
    echo "data/shapes/tipc/$name -> $folder"
}

case $mode in
    lite_* | benchmark_train) link_set lite --num-train 64 --num-query 16 --num-database 160 ;;
esac
case $mode in
    *whole_infer) link_set whole ;;
esac
