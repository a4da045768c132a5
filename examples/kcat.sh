#!/usr/bin/env bash
# What kcat shows of Flowgauge's topics: examples/kcat.sh [HOST:PORT]. It reads what is there and ends.
set -euo pipefail
bus=${1:-127.0.0.1:9092}
python=${PYTHON:-python3}
here=$(dirname "$0")

echo "# partitions and sizes"
kcat -b "$bus" -L -t predictions.flow | grep -E 'topic|partition '

echo "# the last prediction of each partition: key (the flow id), partition, offset, bytes"
kcat -b "$bus" -C -t predictions.flow -o -1 -e -q -f '%k  [%p] %o  %S bytes\n'

echo "# three of them, decoded: %R is the length in four bytes before each message"
{ kcat -b "$bus" -C -t predictions.flow -o beginning -c 3 -q -f '%R%s' || true; } | "$python" "$here/decode_stream.py"

# With a schema registry kcat decodes by itself:
#   kcat -b "$bus" -C -t predictions.flow -e -q -s value=avro -r http://127.0.0.1:8081
