"""`python -m jobs.slurm` is `songprint slurm` by another name."""

import sys

from jobs.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "slurm")
    main()
