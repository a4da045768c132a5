"""SQL over a recording: octets by application and time, from flow rows joined with what models said they are.

flowgauge record -o recording --no-follow
python recorded_bytes.py recording
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb

QUESTION = """
    with flows as (
        select flow_id, probe, end_ns, octets_fwd + octets_rev as octets
        from read_parquet('{root}/topic=features.flow/**/*.parquet', union_by_name = true)
    ), named as (
        -- The deepest prediction about a flow is the best informed one.
        select flow_id, arg_max(label, depth) as application
        from read_parquet('{root}/topic=predictions.flow/**/*.parquet', union_by_name = true)
        where label is not null group by flow_id
    )
    select time_bucket(interval '{seconds} seconds', make_timestamp_ns(end_ns)) as time,
           coalesce(application, '(unknown)') as application,
           count(*) as flows, sum(octets)::bigint as octets
    from flows left join named using (flow_id)
    group by all order by time, octets desc
"""


def main() -> int:
    """Print octets by interval and application."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path, help="a recording's folder")
    parser.add_argument("--seconds", type=int, default=10, help="length of an interval")
    options = parser.parse_args()
    for topic in ("features.flow", "predictions.flow"):
        if not any(options.recording.glob(f"topic={topic}/**/*.parquet")):
            print(f"{options.recording}: nothing of {topic} is recorded there", file=sys.stderr)
            return 1
    print(duckdb.sql(QUESTION.format(root=options.recording, seconds=options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
