"""Rules that matched nothing, over partitions at hand and those let go of."""

from __future__ import annotations

from streams.services.config import ServiceSettings
from streams.services.live_rules import LiveRules
from streams.services.rules import RuleBook

SERVICES = (
    ServiceSettings(name="video", domains=("example.com", "example.net")),
    ServiceSettings(name="voice", domains=("example.org",), probes=("north",)),
)


def test_rules_are_counted_by_probe_and_named_once_nothing_matched_them_anywhere() -> None:
    live, gauges = LiveRules(), dict[str, float | None]()
    north, south = RuleBook(SERVICES, "north"), RuleBook(SERVICES, "south")
    books = [("north", north), ("north", RuleBook(SERVICES, "north")), ("south", south)]
    north.service_of_name("www.example.com")
    live.tell(books, gauges.__setitem__)
    assert gauges == {"rules_without_match_north": 2, "rules_without_match_south": 2}
    assert live.without_match() == []  # nothing was let go of yet
    live.let_go(books)
    assert live.without_match() == ["video: domain example.net", "voice: domain example.org"]

    # Partitions come again: what was counted before stays.
    south = RuleBook(SERVICES, "south")
    south.service_of_name("example.net")
    live.tell([("south", south)], gauges.__setitem__)
    assert gauges == {"rules_without_match_north": 2, "rules_without_match_south": 1}
    live.let_go([("south", south)])
    assert live.without_match() == ["voice: domain example.org"]
