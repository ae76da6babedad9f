"""What songprint costs, measured side by side with others in one run: ratios and medians, never an assertion."""

from pipeline.execution.process import avoid_slow_sort

avoid_slow_sort()  # as the commands do
