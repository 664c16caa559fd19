"""python -m doublure, which is the command where no script of that name is on the path."""

from doublure.cli.main import run

if __name__ == "__main__":
    run()
