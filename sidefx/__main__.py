"""`python -m sidefx`."""

from sidefx.cli import main

if __name__ == "__main__":
    main()
