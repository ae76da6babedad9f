"""Any audio file to mono blocks of samples, and what its tags say."""
