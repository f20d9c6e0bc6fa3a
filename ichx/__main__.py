"""`python -m ichx` is the same program as `ichx`."""

from ichx.cli.app import main

if __name__ == "__main__":
    main()
