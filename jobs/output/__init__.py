"""Results to a terminal or to files, a module for each kind of output."""
