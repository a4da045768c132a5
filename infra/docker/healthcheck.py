"""The image's health check: asks the process in the container whether it gets on, and says what it answers.

Standard library only. The port is the image's; an argument names another.
"""

from __future__ import annotations

import http.client
import sys

PORT = 9100
TIMEOUT_S = 4.0


def main(arguments: list[str]) -> int:
    """Return 0 where ``/health`` answers 200, else 1; print what was wrong."""
    port = int(arguments[0]) if arguments else PORT
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        print(answer.read(1000).decode("utf-8", "replace").strip())
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port} does not answer: {error}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
