"""Names of servers as packets tell them: DNS answers, TLS and QUIC server names, HTTP hosts."""
