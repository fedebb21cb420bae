"""Labelled pairs of queries and documents: the data that scores are judged by."""
