"""Classifiers that learn on the stream: River, labels joined late by flow id, prequential scores."""
