"""The commands: options in, one call of `pipeline`, a table out. Only here is anything printed."""
