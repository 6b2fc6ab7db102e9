"""What the package costs and how exact it is; see README.md for one line on each module."""
