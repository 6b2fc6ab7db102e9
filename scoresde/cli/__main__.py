"""`python -m scoresde.cli`, for where the script is not on the path."""

from scoresde.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
