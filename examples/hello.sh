#!/bin/bash
# quarterdeck submit --ranks 2 -- bash hello.sh
set -eu
echo "rank $RANK of $WORLD_SIZE on $(hostname), local rank $LOCAL_RANK, rendezvous $MASTER_ADDR:$MASTER_PORT"
