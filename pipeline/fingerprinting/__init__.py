"""Samples to hashes: spectrogram, peaks, landmarks."""
