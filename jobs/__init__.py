"""The commands: options in, one call of `pipeline`, a table out. Only here is anything printed."""

from pipeline.execution.process import avoid_slow_sort

avoid_slow_sort()  # before anything imports numpy
