"""What songprint costs, measured side by side with others in one run: ratios and medians, never an assertion."""
