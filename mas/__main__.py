"""`python -m mas` is `mas`."""

from mas.cli import main

if __name__ == "__main__":
    main()
