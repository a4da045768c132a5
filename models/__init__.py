"""Model agents: they read feature records and labels, and publish predictions."""
