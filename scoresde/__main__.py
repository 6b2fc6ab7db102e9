"""`python -m scoresde`, the command line for where its script is not on the path."""

from scoresde.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
