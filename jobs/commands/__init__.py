"""The commands, a module for each or for a family of them."""
