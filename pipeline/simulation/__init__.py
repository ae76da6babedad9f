"""Synthetic music, and its degradation by rooms, loudspeakers, voices and codecs."""
