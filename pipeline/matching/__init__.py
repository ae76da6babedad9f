"""A clip or a recording to the songs in it: votes, evidence, confidence."""
