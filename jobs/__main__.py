"""`python -m jobs COMMAND` is the console script by another name."""

from jobs.cli import main

if __name__ == "__main__":
    main()
