"""Recall and false positives on the user's own music."""
