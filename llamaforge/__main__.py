"""`python -m llamaforge`: the same as the command `llamaforge`."""

from llamaforge.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
