# shellcheck shell=sh
# Sourced by setup.sh: `check_gpu` says what the driver and the cards of this machine take, and stops before an install
# that cannot run. docs/gpu.md has the tables behind it. Nothing here was measured: no GPU was at hand.

# Machine code in the libraries of the public index's paddlepaddle-gpu 2.6.2; there is no PTX, so a newer architecture
# has nothing to run.
CODE_OF_2_6="6.1 7.0 7.5 8.0 8.6"

# Machine code runs on the same major number with the same or a higher minor one: 8.6 on 8.9, but 8.0 not on 7.5.
has_code() {
    for code in $CODE_OF_2_6; do
        if [ "${code%.*}" = "${1%.*}" ] && [ "${code#*.}" -le "${1#*.}" ]; then return 0; fi
    done
    return 1
}

# Sets cuda (11.8, 12.6, ... or empty) and oldest_driver (NVIDIA's first for it) for a Paddle version and an index.
cuda_of() {
    cuda=
    case $1 in 2.6.*) cuda=11.8 ;; esac
    case $2 in *cu[0-9][0-9][0-9]*)
        digits=${2##*cu}
        digits=${digits%%[!0-9]*}
        cuda=${digits%?}.${digits#??} ;;
    esac
    case $cuda in
        11.*) oldest_driver=450 ;;
        12.*) oldest_driver=525 ;;
        13.*) oldest_driver=580 ;;
        *) oldest_driver=0 ;;
    esac
}

# Sets verdict on compute capability $1 with paddlepaddle-gpu $2 of index $3 on CUDA $cuda, and fits (yes or no).
look_at() {
    fits=no
    case $2/$3 in
        2.6.*/)
            verdict="paddlepaddle-gpu $2 has machine code for $CODE_OF_2_6 and no PTX"
            if has_code "$1"; then
                fits=yes verdict="paddlepaddle-gpu $2 has machine code for it"
            fi
            return ;;
    esac
    case $cuda/$1 in
        11.*/1[0-9].* | 12.[0-7]/1[0-9].*) verdict="CUDA $cuda does not know it, 12.8 is the first that does" ;;
        13.*/[1-6].* | 13.*/7.[0-4]) verdict="CUDA $cuda has dropped it, 12.9 is the last that knows it" ;;
        /*) fits=yes verdict="not known whether paddlepaddle-gpu $2 of $3 has code for it" ;;
        *) fits=yes verdict="CUDA $cuda knows it; not known whether paddlepaddle-gpu $2 of $3 has code for it" ;;
    esac
}

# The Paddle for compute capability $1, in words.
advice_for() {
    packages=https://www.paddlepaddle.org.cn/packages/stable
    case ${1%.*} in
        7 | 8) echo "PADDLE_VERSION=2.6.2, or PADDLE_VERSION=3.3.1 PADDLE_INDEX_URL=$packages/cu126/" ;;
        9) echo "Paddle 3 on CUDA 12.6: PADDLE_VERSION=3.3.1 PADDLE_INDEX_URL=$packages/cu126/" ;;
        1[0-9]) echo "Paddle 3 on CUDA 12.9: PADDLE_VERSION=3.3.1 PADDLE_INDEX_URL=$packages/cu129/" ;;
        *) echo "with PADDLE_DEVICE=cpu: no published wheel is known to us that has code for it" ;;
    esac
}

# check_gpu VERSION INDEX
check_gpu() {
    cuda_of "$1" "$2"
    where="docs/gpu.md says which Paddle is for which card"
    case $1 in
        2.6.*) echo "note: paddlepaddle-gpu $1 brings neither CUDA nor cuDNN: install CUDA $cuda and cuDNN 8.6" ;;
    esac
    if ! command -v nvidia-smi >/dev/null 2>&1; then
        echo "note: no nvidia-smi here, so no driver and no card to look at; $where"
        return
    fi
    query=driver_version,compute_cap,name
    if ! cards=$(nvidia-smi --query-gpu="$query" --format=csv,noheader 2>&1) || [ -z "$cards" ]; then
        echo "note: nvidia-smi does not name its cards ($(echo "$cards" | head -n 1)); $where"
        return
    fi
    any=no
    while IFS=, read -r driver capability name; do
        capability=${capability# }
        case $driver/$capability in
            [0-9]*.[0-9]*/[0-9].[0-9] | [0-9]*.[0-9]*/[0-9][0-9].[0-9]) ;;
            *)
                echo "note: this driver does not tell the compute capability of$name; $where"
                any=yes
                continue ;;
        esac
        [ "${driver%%.*}" -ge "$oldest_driver" ] ||
            die "driver $driver is older than $oldest_driver, the first for CUDA $cuda; install a newer NVIDIA driver"
        look_at "$capability" "$1" "$2"
        echo "GPU$name: compute capability $capability, driver $driver: $verdict"
        [ "$fits" = no ] || any=yes
        last=$capability
    done <<CARDS
$cards
CARDS
    [ "$any" = yes ] || die "compute capability $last: $verdict; install $(advice_for "$last")"
}
