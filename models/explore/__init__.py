"""Searches features, periods and depths for the Pareto front of quality against measured cost."""
