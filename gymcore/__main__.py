"""`python -m gymcore` is the command `gym`."""

from gymcore.cli import main

if __name__ == "__main__":
    main()
