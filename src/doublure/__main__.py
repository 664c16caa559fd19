"""python -m doublure: the command, if its script is not on the path."""

from doublure.cli.main import run

if __name__ == "__main__":
    run()
