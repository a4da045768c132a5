"""Decodes predictions from standard input, each with its length in four big-endian bytes before it (kcat's %R%s)."""

from __future__ import annotations

import json
import sys

from consume_predictions import PredictionReader

reader = PredictionReader()
while head := sys.stdin.buffer.read(4):
    print(json.dumps(reader.read(sys.stdin.buffer.read(int.from_bytes(head, "big")))))
