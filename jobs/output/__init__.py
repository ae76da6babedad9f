"""Output: the table of formats, a module for each format, and what writes rows in any of them."""
