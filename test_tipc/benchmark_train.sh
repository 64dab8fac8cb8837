#!/usr/bin/env bash
# Measure training as the section train_benchmark_params of a config says.
#
#   bash test_tipc/benchmark_train.sh test_tipc/configs/hashnet_16/train_infer_python.txt benchmark_train [PARAMS]
#
# PARAMS chooses one measurement: dynamic_bs16_fp32_DP_N1C1 is batch 16, float32, one node with one device (N1C2: two
# ranks). Without it all of the section run, on N1C1.
#
# Logs: test_tipc/output/<model>/benchmark_train/ (or $BENCHMARK_LOG_DIR): train_log/<name>_log, index/<name>_speed (one
# line of JSON: ips, avg_batch_cost and what was measured), where <name> is
# <repository>_<model>_bs<n>_<fp>_<SingleP|MultiP>_DP_N1C<n>.
set -u
# shellcheck source=test_tipc/common_func.sh
. "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
case $# in
    2 | 3) ;;
    *) fail "usage: bash $0 CONFIG benchmark_train [dynamic_bs16_fp32_DP_N1C1]" ;;
esac
read_arguments "$1" "$2"
[ "$mode" = benchmark_train ] || fail "the mode of $0 is benchmark_train, not $mode"
parse_train_lines

IFS='|' read -ra batches <<<"$(section train_benchmark_params batch_size)"
IFS='|' read -ra precisions <<<"$(section train_benchmark_params fp_items)"
epoch=$(section train_benchmark_params epoch)
[ -n "$epoch" ] || fail "$1 has no section train_benchmark_params with an epoch"
devices=1
if [ -n "${3:-}" ]; then
    [[ $3 =~ ^[a-z]+_bs([0-9]+)_(fp32|fp16|bf16|null)_DP_N1C([0-9]+)$ ]] ||
        fail "$3 is no measurement such as dynamic_bs16_fp32_DP_N1C1"
    batches=("${BASH_REMATCH[1]}")
    precisions=("${BASH_REMATCH[2]/null/fp32}")
    devices=${BASH_REMATCH[3]}
fi
IFS=';' read -ra flags <<<"$(section train_benchmark_params flags)"
for flag in ${flags[@]+"${flags[@]}"}; do
    # shellcheck disable=SC2163  # the name and the value are in it
    [ "$flag" = null ] || export "$flag"
done

start_output
logs=${BENCHMARK_LOG_DIR:-$out}
mkdir -p "$logs/train_log" "$logs/index" || exit 1
choose_device
processes=SingleP
if [ "$devices" -gt 1 ]; then
    processes=MultiP
    whole_command=("${whole_command[@]/main_single_gpu.py/main_multi_gpu.py}" --nprocs "$devices")
fi
for batch in "${batches[@]}"; do
    for precision in "${precisions[@]}"; do
        model=${model_name}_bs${batch}_${precision}_${processes}_DP
        name=$(basename "$PWD")_${model}_N1C$devices
        amp=none
        [ "$precision" = fp32 ] || amp=$precision
        tag=_bs${batch}_${precision}_N1C$devices
        # every step has its line; the method's own recipe on the lite data
        run_step "train$tag" "$logs/train_log/${name}_log" "line avg_batch_cost" "$python" "${whole_command[@]}" \
            --data-path data/shapes/tipc/lite --epoch "$epoch" --batch-size "$batch" --log-step 1 --amp "$amp" \
            --output-dir "$out/train$tag" "$train_device_key" "$device" &&
            run_step "speed$tag" "$out/speed$tag.log" "file $logs/index/${name}_speed" "$python" test_tipc/analysis.py \
                --filename "$logs/train_log/${name}_log" --speed_log_file "$logs/index/${name}_speed" \
                --model_name "$model" --base_batch_size "$batch" --fp_item "$precision" --device_num "N1C$devices" \
                --run_process_type "$processes" --skip_steps 2
    done
done
finish
