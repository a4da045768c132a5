"""SQL over predictions: ``flowgauge tail --json`` into a file, and DuckDB over the file.

python duckdb_predictions.py --bus 127.0.0.1:9092
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

import duckdb

CLASSES = """
    select label, count(distinct flow_id) as flows, count(*) as predictions,
           round(avg(confidence), 2) as confidence
    from read_json_auto('{file}') group by label order by flows desc, label
"""
STAGES = """
    select representation,
           round(median(bus_to_flows_ns) / 1e6, 2) as bus_to_flows_ms, round(median(flows_ns) / 1e6, 2) as flows_ms,
           round(median(bus_to_model_ns) / 1e6, 2) as bus_to_model_ms, round(median(model_ns) / 1e6, 2) as model_ms
    from read_json_auto('{file}') group by representation order by representation
"""


def main() -> int:
    """Print predictions by class, and the median time at each hop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bus", default="127.0.0.1:9092", help="bootstrap servers")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        tail = ["flowgauge", "tail", "predictions.flow", "--json", "--no-follow", "--bus", options.bus]
        done = subprocess.run([sys.executable, "-m", *tail], stdout=file, check=False)
        if done.returncode:
            return done.returncode
        for question in (CLASSES, STAGES):
            print(duckdb.sql(question.format(file=file.name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
