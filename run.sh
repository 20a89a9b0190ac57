#!/usr/bin/env bash
# Trains on all CUDA devices of this machine, and goes on by itself after a crash. Every argument is passed on to `lfkit train`.
#   ./run.sh --data_dir Dataset --patch_size 64 --batch_size 16 --channels 64 --num_workers 4
# Without a CUDA device: NPROC=2 ./run.sh --device cpu ...   On several machines, the same on each, with the first one's address:
#   NNODES=2 NODE_RANK=0 MASTER=node0:29500 ./run.sh ...
# The first start is a new run unless the arguments hold --resume auto. RETRIES (3) more starts go on with it, but not after a start
# that ended within a minute: a further one would end alike.
set -uo pipefail
trap 'kill -TERM "${child:-}" 2>/dev/null; wait; exit 130' INT TERM  # the shell would wait for a child in the foreground before it looks
PYTHON=${PYTHON:-python}
NPROC=${NPROC:-$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
where=(--standalone)
if [ "${NNODES:-1}" -gt 1 ]; then
    where=(--nnodes="$NNODES" --node-rank="${NODE_RANK:?is the number of this machine, from 0}" --rdzv-backend=static
           --rdzv-endpoint="${MASTER:?is HOST:PORT of machine 0}")
fi
more=()
for ((left = ${RETRIES:-3}; ; left--)); do
    SECONDS=0
    "$PYTHON" -m torch.distributed.run "${where[@]}" --nproc-per-node="$NPROC" -m lfkit train "$@" "${more[@]}" &
    child=$!
    wait "$child" && exit 0
    status=$?
    if [ "$left" -le 0 ] || [ "$SECONDS" -lt "${MIN_SECONDS:-60}" ]; then exit "$status"; fi
    echo "run.sh: ended with status $status; going on with --resume auto" >&2
    more=(--resume auto)
done
