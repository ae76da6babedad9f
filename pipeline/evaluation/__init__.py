"""Recall and false positives, measured on the user's own music."""
