"""The study of cascades: trains models over depths, compares them, chooses tiers, tunes thresholds."""
