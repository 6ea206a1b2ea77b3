"""`python -m bridgejax` is the command `bridgejax`."""

from bridgejax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
